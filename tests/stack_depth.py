"""How much stack the chains of calls of a BPF object take, as Linux 6.1 counts it: each function's is rounded up to 32
octets, and a chain may have 512. Later kernels round less, so that their verifier takes what that one refuses."""

import re
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

STACK_MAX, ROUNDED_TO = 512, 32
_CALL, _OF_PROGRAM = 0x85, 1
"""Opcode; and source register of a call of another function of the object (RFC 9669 §4.3.1, §5.4)."""
_FUNCTION = re.compile(r"([0-9a-f]+) .{6}F (\S+)\s+([0-9a-f]+) (?:\.hidden )?(\S+)")
_INSTRUCTION = re.compile(r"\s+(\d+):\t((?:[0-9a-f]{2} ?)+)\t(.*)")
_OFFSET = re.compile(r"(?:r10 [-+] -?|r\d+ \+= -)(\d+)")
"""Of what is on the stack; r10 is its end."""
_RELOCATION = re.compile(r"\s+[0-9a-f]+:\s+R_BPF_64_32\s+(\S+)")


@dataclass
class Function:
    section: str
    begin: int
    end: int
    stack: int = 0
    calls: set[str] = field(default_factory=set)


def worst_chain(file: Path) -> tuple[int, list[tuple[str, int]]]:
    """Octets, and the functions with what each of them takes."""
    functions = _functions(file)

    @cache
    def below(name: str) -> tuple[int, tuple[tuple[str, int], ...]]:
        function = functions[name]
        size, chain = max((below(called) for called in function.calls), default=(0, ()))
        own = max(ROUNDED_TO, -(-function.stack // ROUNDED_TO) * ROUNDED_TO)
        return own + size, ((name, function.stack), *chain)

    size, chain = max(below(name) for name in functions)
    return size, list(chain)


def _functions(file: Path) -> dict[str, Function]:
    symbols = _FUNCTION.findall(_objdump("-t", file))
    functions = {
        name: Function(section, int(begin, 16), int(begin, 16) + int(size, 16))
        for begin, section, size, name in symbols
    }

    def at(section: str, offset: int) -> str:
        (name,) = (
            name for name, each in functions.items() if each.section == section and each.begin <= offset < each.end
        )
        return name

    section, current, number, immediate, pending = "", "", 0, 0, False
    for line in _objdump("-dr", file).splitlines():
        if line.startswith("Disassembly of section "):
            section = line.removeprefix("Disassembly of section ").rstrip(":")
        elif instruction := _INSTRUCTION.fullmatch(line):
            if pending:  # no relocation: it is in the same section, from the next instruction on
                functions[current].calls.add(at(section, 8 * (number + 1 + immediate)))
            number, octets, text = int(instruction[1]), bytes.fromhex(instruction[2]), instruction[3]
            current = at(section, 8 * number)
            used = (int(offset) for offset in _OFFSET.findall(text))
            functions[current].stack = max(functions[current].stack, *(each for each in used if each <= STACK_MAX), 0)
            pending = octets[0] == _CALL and octets[1] >> 4 == _OF_PROGRAM
            immediate = int.from_bytes(octets[4:8], "little", signed=True)
        elif pending and (relocation := _RELOCATION.match(line)):
            pending = False
            target = relocation[1]
            functions[current].calls.add(target if target in functions else at(target, 8 * (immediate + 1)))
    return functions


def _objdump(what: str, file: Path) -> str:
    return subprocess.run(["llvm-objdump", what, file], capture_output=True, text=True, check=True).stdout
