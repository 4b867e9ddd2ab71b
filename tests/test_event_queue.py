"""controller.event_queue: who says much waits for himself."""

import asyncio

import pytest

from controller.event_queue import OURS, EventQueue


async def test_a_turn_takes_all_of_ours_and_the_same_of_each_neighbour_in_order() -> None:
    queue: EventQueue[str] = EventQueue(100)
    for n in range(50):
        for lane, every in (("a", 1), ("b", 5), (OURS, 10)):
            if n % every == 0:
                await queue.put(lane, f"{lane}{n}")
    turn = await queue.take(256, 12)
    assert turn[:5] == ["0", "10", "20", "30", "40"]
    assert turn[5:] == [f"a{n}" for n in range(6)] + [f"b{n}" for n in range(0, 30, 5)]
    assert await queue.take(256, 10) == [f"a{n}" for n in range(6, 11)] + [f"b{n}" for n in range(30, 50, 5)] 
    assert await queue.take(256, 100) == [f"a{n}" for n in range(11, 50)]


async def test_of_more_neighbours_than_a_turn_takes_all_have_their_turn() -> None:
    queue: EventQueue[str] = EventQueue(100)
    lanes = "abcdefg"
    for lane in lanes * 4:
        queue.put_nowait(lane, lane)
    assert "".join([(await queue.take(1, 2))[0] for _ in range(7)]).startswith("aceg")
    assert len(queue) == 14
    left = [one for _ in range(7) for one in await queue.take(1, 2)]
    assert sorted(left) == sorted(lanes * 2)


async def test_a_full_lane_holds_up_nobody_else_and_goes_on_when_there_is_room() -> None:
    queue: EventQueue[int] = EventQueue(3)
    talking = asyncio.ensure_future(_say(queue, "a", 10))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(queue) == 3 and not talking.done()
    with pytest.raises(asyncio.QueueFull):
        queue.put_nowait("a", 1)
    queue.put_nowait("b", 100)
    queue.put_nowait(OURS, 200)
    seen: list[int] = []
    joining = asyncio.ensure_future(queue.join())
    while not talking.done() or len(queue):
        turn = await queue.take(1, 1)
        seen += turn
        await asyncio.sleep(0)
        assert not joining.done()
        queue.done(len(turn))
    await joining
    assert seen[0] == 200 and 100 in seen[:3]
    assert [one for one in seen if one < 100] == [*range(10)]


async def _say(queue: EventQueue[int], lane: str, count: int) -> None:
    for n in range(count):
        await queue.put(lane, n)
