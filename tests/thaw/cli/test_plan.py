"""`thaw plan`: strips of layers, what they cost, warnings."""

import json
from collections.abc import Sequence

from tests.thaw.cli.conftest import Run
from tests.thaw.conftest import FakeService
from thaw.cli import strip
from thaw.records import LayerPlan


def layers(*groups: tuple[int, str, bool], head: int = 1) -> list[LayerPlan]:
    """So many layers in this state each, cached or not, and the head's."""
    body = [
        LayerPlan(path="x", state=state, cached=cached) for count, state, cached in groups for _ in range(count)
    ]  # fmt: skip
    return [*body, *(LayerPlan(path="h", part="head", state="trains") for _ in range(head))]


def drawn(found: Sequence[LayerPlan], width: int) -> str:
    return strip.cells(found, width)


def test_a_strip_has_one_cell_for_each_layer_with_weights() -> None:
    found = layers((3, "frozen", True), (2, "weightless", True), (2, "trains", False), (1, "held", False), head=2)
    assert drawn(found, 80) == "···┃██▒◆◆"


def test_frozen_layers_that_run_in_every_epoch_look_different() -> None:
    assert drawn(layers((2, "frozen", True), (1, "frozen", False), (1, "trains", False)), 80) == "··┃░█◆"
    assert drawn(layers((3, "frozen", False)), 80) == "░░░◆"
    assert drawn(layers((2, "frozen", True), (1, "held", True), (1, "trains", False)), 80) == "···┃█◆"


def test_where_branches_cross_no_one_place_is_the_edge() -> None:
    found = layers((1, "frozen", True), (1, "trains", False), (1, "frozen", True), (1, "trains", False))
    assert drawn(found, 80) == "·█·█◆"


def test_a_hundred_and_sixty_layers_fit_into_a_terminal() -> None:
    found = layers((120, "frozen", True), (20, "frozen", False), (20, "trains", False), head=3)
    cells = drawn(found, 78)
    assert len(cells) == 78
    assert cells.strip("·┃░█◆") == ""
    assert cells.count("█") in (9, 10, 11)
    assert strip.layers_for_a_cell(found, 78) == 3


def test_one_layer_that_trains_is_never_hidden_among_many_that_do_not() -> None:
    found = layers((500, "frozen", True), (1, "trains", False), (500, "frozen", False))
    assert drawn(found, 60).count("█") == 1
    held = layers((500, "frozen", True), (1, "held", False), (500, "frozen", False))
    assert drawn(held, 60).count("▒") == 1


def test_the_plan_tells_each_phase_with_its_strip(service: FakeService, run: Run) -> None:
    result = run("plan", "--model", "model-1", "--data", "ds-1")
    assert result.exit_code == 0, result.output
    assert "after dense_2, 1 layer dropped" in result.stdout
    lines = [line.strip() for line in result.stdout.splitlines()]
    head = lines.index("head  4 epochs, sgd 0.01; 5 weights train; 1.2 kB of memory; about 7 s")
    assert lines[head + 1] == "··┃◆"
    assert lines[head + 2] == "Runs once up to dense_2, 6.4 kB cached."
    both = lines.index("all  16 epochs, sgd 0.0001; 45 weights train; 2.0 kB of memory; about 1 min 15 s")
    assert lines[both + 1] == "▒█◆"
    assert lines[both + 2] == "No cache: nothing is the same in every epoch."
    assert lines[both + 3] == "Trains dense_2, and the head, at rates from 5e-05 to 0.0001."
    assert "· frozen, runs once   ▒ BatchNormalization held   █ trains   ◆ head" in lines
    assert "About 1 min 22 s of training, measured in an earlier job, on cpu; reckoned from" in result.stdout
    assert result.stderr == "Warning: The learning rate does not fall.\n"
    assert service.jobs == {}


def test_layers_shows_all_of_them_with_the_reason(service: FakeService, run: Run) -> None:
    assert "not unfrozen" not in run("plan", "--model", "model-1", "--data", "ds-1").stdout
    result = run("plan", "--model", "model-1", "--data", "ds-1", "--layers")
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "· norm BatchNormalization 16 - - not unfrozen" in rows
    assert "▒ norm BatchNormalization 16 - - held" in rows
    assert "█ dense_2 Dense 20 20 5e-05 unfrozen" in rows
    assert "◆ output Dense 5 5 0.0001 the head always trains" in rows
    assert "in InputLayer - - - no weights" in rows
    del service


def test_the_plan_of_a_service_from_before_is_shown_as_far_as_it_goes(service: FakeService, run: Run) -> None:
    import httpx2

    old = {"phases": [{"name": "head", "epochs": 4, "optimizer": "sgd", "learning_rate": 0.01}]}
    service.answers = [httpx2.Response(200, json=old)]
    result = run("plan", "--model", "model-1", "--data", "ds-1")
    assert result.exit_code == 0, result.output
    assert "head  4 epochs, sgd 0.01" in result.stdout


def test_json_is_the_plan_as_the_service_sent_it(service: FakeService, run: Run) -> None:
    found = json.loads(run("plan", "--model", "m", "--data", "d", "--json").stdout)
    assert found["phases"][1]["layers"][1]["state"] == "held"
    del service
