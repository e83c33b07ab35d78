from app.standalone.backoff import Backoff


def test_delays_double_from_one_second_to_thirty() -> None:
    backoff = Backoff()
    assert [backoff.delay(lived=0.1) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_a_program_that_was_healthy_for_a_while_is_started_again_after_one_second() -> None:
    backoff = Backoff(healthy_after=60)
    for _ in range(4):
        backoff.delay(lived=1)
    assert backoff.delay(lived=59.9) == 16
    assert backoff.delay(lived=60) == 1
    assert backoff.delay(lived=1) == 2
