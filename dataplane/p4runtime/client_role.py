"""Who may lead this agent over TCP: a controller, and no other agent, though one authority has signed both.

A certificate says what it is for in its extended key usage (RFC 5280 §4.2.1.12). A controller's is a client's and
nothing else, as `stitchd keygen --agent` makes it; TLS itself keeps out what is a server's only. One that may be either
could be an agent's: it leads only under the name that the agent's configuration expects.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@functools.lru_cache(maxsize=64)
def objection(certificate: bytes, name: str) -> str:
    """Why who shows this (DER) may not lead; empty: it may. `name`: what a controller is called; empty: not known."""
    try:
        shown = x509.load_der_x509_certificate(certificate)
        names = _names(shown)
    except ValueError as error:
        return f"its certificate cannot be read: {error}"
    if name:
        return "" if name in names else f"its certificate is of {', '.join(sorted(names)) or 'nobody'}, not of {name}"
    try:
        usage = [*shown.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value]
    except x509.ExtensionNotFound:
        usage = []
    if usage != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        return (
            "its certificate may be a server's too, so that it could be another agent's: use one of "
            "`stitchd keygen --agent`, or set tls_client_name to the name in the controller's"
        )
    return ""


def _names(certificate: x509.Certificate) -> set[str]:
    names = {str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return names
    return names | {*alternative.get_values_for_type(x509.DNSName)}


class OnlyControllers(grpc.aio.ServerInterceptor):
    def __init__(
        self,
        name: str,
        certificate: Callable[[str], bytes],
        refused: Callable[[str, str], None],
        known: Callable[[str], None],
    ) -> None:
        """`certificate`: by address, of who calls from there (DER; empty: there is none); `refused`: address and
        reason, for the log; `known`: address of who may lead."""
        self._name = name
        self._certificate = certificate
        self._refused = refused
        self._known = known

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        kind = next(each for each in kinds if getattr(handler, each) is not None)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            self._checked(getattr(handler, kind)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _checked(self, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def single(request: Any, context: Any) -> Any:
            await self._check(context)
            return await behaviour(request, context)

        async def many(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._check(context)
            async for answer in behaviour(request, context):
                yield answer

        return many if inspect.isasyncgenfunction(behaviour) else single

    async def _check(self, context: Any) -> None:
        shown = self._certificate(context.peer())
        if reason := objection(shown, self._name) if shown else "it shows no certificate":
            self._refused(context.peer(), reason)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"you may not lead this agent: {reason}")
        self._known(context.peer())
