"""What is worked out for nobody ends: over the API, in the threads that its framework takes."""

import itertools
import threading

import fastapi
import httpx
import pytest
from waiting import LIMIT_S

from controller.northbound.answers import as_json
from controller.northbound.serve import Deadline
from controller.waited_for import NobodyWaits, asked, waited_for


async def test_what_is_worked_out_ends_when_its_asker_has_been_told_to_try_again() -> None:
    app, ended = fastapi.FastAPI(), threading.Event()

    @app.get("/long")
    def work_on() -> fastapi.Response:
        try:
            return as_json([*waited_for(itertools.count())])
        except NobodyWaits:
            ended.set()
            raise

    transport = httpx.ASGITransport(app=Deadline(app, deadline_s=0.2))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.get("/long")
    assert answer.status_code == 503 and "try again" in answer.text
    assert ended.wait(LIMIT_S)


def test_where_somebody_waits_all_of_it_is_worked_out() -> None:
    assert [*waited_for(range(3))] == [0, 1, 2], "nobody has asked: it is for ourselves"
    with asked() as asker:
        parts = waited_for(range(3))
        assert next(parts) == 0
        asker.is_gone = True
        with pytest.raises(NobodyWaits):
            next(parts)
