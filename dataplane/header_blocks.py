"""How large the header blocks of HTTP/2 are that come over a connection (RFC 9113 §4.3, RFC 7541 §6).

gRPC bounds the headers of a call, but of what is beyond its bound it makes one text of up to 16 MB, for each call, and
reads on. With some hundred octets that name one long entry of the table again and again, or with a block that does not
end (CONTINUATION), that is gigabytes. So what comes is looked at before gRPC reads it:

```
 octets ──▶ frames ──▶ of HEADERS and CONTINUATION the fields ──▶ the sizes that they have when they are read
```

No table is kept for that: a field that is named by its place in the table counts as the largest that has ever been put
there, which is at least what it takes.
"""

LIST_BYTES_MAX = 16 << 10
"""Of all fields of a block, each with 32 octets beside what it says (RFC 9113 §6.5.2): as gRPC has it by itself. A call
of gRPC has about ten fields of some ten octets."""
_PREFACE_BYTES = 24
_FRAME_HEAD_BYTES = 9
_HEADERS, _PUSH_PROMISE, _CONTINUATION = 1, 5, 9
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_FIELD_BYTES = 32
_STATIC_FIELDS = 61
_STATIC_FIELD_BYTES = _FIELD_BYTES + 40
"""The longest of RFC 7541, Appendix A, has 27 in its name and 13 in a value."""
_SHORTEST_CODE_BITS = 5
"""Of the Huffman code there, Appendix B."""
_INTEGER_BYTES_MAX = 5


class TooLarge(Exception):
    """A header block that is beyond the bound, or cannot be read."""


class HeaderBlocks:
    """Of one direction of one connection."""

    def __init__(self, *, preface: bool = True) -> None:
        """`preface`: of a client, which begins with one."""
        self._passing = _PREFACE_BYTES if preface else 0
        """So many of the octets that come next hold no headers."""
        self._held = b""
        """The beginning of a frame."""
        self._is_open = False
        self._rest = b""
        """Of the block that is open, the field that has not come whole."""
        self._size = 0
        self._largest = 0
        """Of all fields that the other side has put into its table."""

    def take(self, data: bytes) -> bytes:
        """What of it, and of what was held before, may go on. Raises TooLarge."""
        data = self._held + data
        position = 0
        while position < len(data):
            if self._passing:
                step = min(self._passing, len(data) - position)
                self._passing -= step
                position += step
                continue
            payload = position + _FRAME_HEAD_BYTES
            if payload > len(data):
                break
            length = int.from_bytes(data[position : position + 3])
            kind, flags = data[position + 3], data[position + 4]
            if kind not in (_HEADERS, _PUSH_PROMISE, _CONTINUATION):
                self._passing = _FRAME_HEAD_BYTES + length
                continue
            if length > LIST_BYTES_MAX:
                raise TooLarge(f"a frame of {length} octets of headers")
            if payload + length > len(data):
                break
            self._frame(kind, flags, data[payload : payload + length])
            position = payload + length
        self._held = data[position:]
        return data[:position]

    def _frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _PUSH_PROMISE or (kind == _CONTINUATION) is not self._is_open:
            raise TooLarge("a frame of headers where none may be")
        if kind == _HEADERS:
            payload = _without_padding(flags, payload)
            self._size = 0
        self._size += _FRAME_HEAD_BYTES
        self._is_open = not flags & _END_HEADERS
        block = _Octets(self._rest + payload)
        while block.position < len(block.data):
            begin = block.position
            try:
                self._size += self._field(block)
            except IndexError:  # not whole
                block.position = begin
                break
            if self._size > LIST_BYTES_MAX:
                break
        self._rest = block.data[block.position :]
        if self._size + len(self._rest) > LIST_BYTES_MAX:
            raise TooLarge(f"a block of headers of more than {LIST_BYTES_MAX} octets")
        if self._rest and not self._is_open:
            raise TooLarge("a block of headers that ends within a field")

    def _field(self, block: "_Octets") -> int:
        """The size of the next one. Raises IndexError where it has not come whole."""
        first = block.data[block.position]
        if first & 0x80:
            return self._indexed(block.integer(7))
        if first & 0xE0 == 0x20:  # the size of the table
            block.integer(5)
            return 1
        to_the_table = bool(first & 0x40)
        index = block.integer(6 if to_the_table else 4)
        size = self._indexed(index) if index else _FIELD_BYTES + block.string()
        size += block.string()
        if to_the_table:
            self._largest = max(self._largest, size)
        return size

    def _indexed(self, index: int) -> int:
        return _STATIC_FIELD_BYTES if index <= _STATIC_FIELDS else max(self._largest, _STATIC_FIELD_BYTES)


class _Octets:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def integer(self, prefix: int) -> int:
        """RFC 7541 §5.1. Raises IndexError, or TooLarge."""
        most = (1 << prefix) - 1
        value = self.data[self.position] & most
        self.position += 1
        if value < most:
            return value
        for place in range(_INTEGER_BYTES_MAX):
            octet = self.data[self.position]
            self.position += 1
            value += (octet & 0x7F) << (7 * place)
            if not octet & 0x80:
                return value
        raise TooLarge("a number in headers that does not end")

    def string(self) -> int:
        """How long it is at most, when it is read (§5.2). Raises IndexError, or TooLarge."""
        is_coded = bool(self.data[self.position] & 0x80)
        length = self.integer(7)
        if length > LIST_BYTES_MAX:
            raise TooLarge(f"a field of {length} octets")
        self.position += length
        if self.position > len(self.data):
            raise IndexError(self.position)
        return length * 8 // _SHORTEST_CODE_BITS if is_coded else length


def _without_padding(flags: int, payload: bytes) -> bytes:
    padding = 0
    if flags & _PADDED:
        if not payload:
            raise TooLarge("padding that is not there")
        padding, payload = payload[0], payload[1:]
    if flags & _PRIORITY:
        payload = payload[5:]
    if padding > len(payload):
        raise TooLarge("padding that is longer than its frame")
    return payload[: len(payload) - padding]
