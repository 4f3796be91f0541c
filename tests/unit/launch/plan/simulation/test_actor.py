from prolong.common.types import VersionSpan
from prolong.launch.plan.simulation.actor import whole_spans


def spans(pieces: list[tuple[int, float]], num_tokens: int) -> list[tuple[int, int, int]]:
    return [(span.version, span.start, span.end) for span in whole_spans(pieces, num_tokens)]


def test_spans_cover_whole_tokens_without_a_gap() -> None:
    assert spans([(5, 10.0)], 10) == [(5, 0, 10)]
    assert spans([(5, 3.4), (6, 3.2), (8, 3.4)], 10) == [(5, 0, 3), (6, 3, 7), (8, 7, 10)]
    assert isinstance(whole_spans([(1, 2.0)], 2)[0], VersionSpan)


def test_the_oldest_version_keeps_a_token() -> None:
    # the bound on staleness counts from the oldest token, however little of it there is
    assert spans([(5, 0.2), (6, 9.8)], 10) == [(5, 0, 1), (6, 1, 10)]
    assert spans([(5, 0.2), (6, 0.3), (7, 0.5)], 1) == [(5, 0, 1)]


def test_pieces_of_one_version_are_one_span() -> None:
    # it was preempted in between
    assert spans([(5, 4.0), (5, 6.0)], 10) == [(5, 0, 10)]
