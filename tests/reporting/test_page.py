"""The report page: its figures and their numbers, what it loads, whom it can be read by, what is refused."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedapp.cli.main import main
from fedapp.reporting.comparison.rows import compare_runs
from fedapp.reporting.page import between, charts, clients, course, page, scores
from fedapp.reporting.page.reading import read_files
from tests.reporting.made_runs import made_run, named, write_lines

ROUNDS = [[0.2, 0.4], [0.5, 0.7], [0.6, 0.9]]


def full_run(folder, config=None, seed=1):
    """A run of two clients that has something to show in every figure."""
    made_run(folder, ROUNDS, seed=seed, base=(0.1, 0.1), config=config)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    head = {"split": "train", "moment": "after", "num-examples": 8}
    for number, weights in ((2, (0.25, 1.0)), (3, (0.5, 0.75))):
        for client, weight in enumerate(weights):
            mixed = {**head, "server-round": number, "client-id": client, "local-weight": weight}
            # An evaluation mixes too, and says so in a row of its own.
            rows += [{**mixed, "model": "own"}, {**mixed, "model": "current", "local-weight": 0.0}]
    write_lines(folder / "metrics.jsonl", rows)
    votes = {"agreement": 0.8, "kept-share": 0.9, "cluster-sizes": {"1": 3, "2": 7}}
    write_lines(folder / "consensus.jsonl", [{"server-round": n, **votes} for n in (1, 2)])
    events = [
        {"event": "start", "time": 1.5},
        {"event": "reply", "time": 3.0, "phase": "train", "seconds": 1.0, "cpu-seconds": 0.5},
        {"event": "reply", "time": 4.0, "phase": "train", "seconds": 2.0, "cpu-seconds": 0.75},
        {"event": "round", "time": 4.5, "phase": "train", "server-round": 1},
        {"event": "round", "time": 5.0, "phase": "evaluate", "server-round": 1},
        {"event": "round", "time": 7.0, "phase": "train", "server-round": 2},
        {"event": "end", "time": 7.5},
    ]
    write_lines(folder / "events.jsonl", events)
    for client, learnt in enumerate(([1.0, 0.0], [1.0, 1.0])):
        home = folder / "adapters" / f"client-{client}"
        home.mkdir(parents=True)
        coefficients = np.full((3, 2, 2), 0.5, np.float32)
        coefficients[:, 0, 0] = client
        save_file({"a": np.array(learnt, np.float32)}, home / "adapter.safetensors")
        if config:  # of a method that calibrates coefficients
            row = {"values": coefficients.tolist()}
            write_lines(folder / "coefficients.jsonl", [{"server-round": n, **row} for n in (2, 3)])
            save_file({"coefficients": coefficients}, home / "adapter.safetensors")
        train = {"by-task": {"topic": 8}, "by-label": {"cold": 2 + client, "warm": 6 - client}}
        crossed = {"accuracy": {"0": 0.6 - client / 2, "1": 0.3 + client * 0.6}}
        about = {"client-id": client, "rows": {"train": train}, "cross-scores": crossed}
        (home / "client.json").write_text(json.dumps(about))
    return folder


def files_of(folder, warn=pytest.fail):
    comparison = compare_runs([folder], warn)
    return read_files(comparison.results[0], "a run", warn)


def points_of(figure):
    """All objects of data in a figure's chart."""
    spec = figure.spec
    return [row for rows in spec.get("datasets", {}).values() for row in rows] or spec["data"]["values"]


class Page(HTMLParser):
    """What a test asks of a page: its elements, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script":
            self.scripts.append((self.elements[-1][1], data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def charts(self):
        return [attrs for tag, attrs in self.elements if tag == "div" and attrs.get("class") == "chart"]

    @property
    def specs(self):
        parts = [data for attrs, data in self.scripts if attrs.get("id") == "charts"]
        return json.loads("".join(parts))["specs"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A page of two configurations, and its text."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        full_run(root / f"a{seed}", seed=seed)
    full_run(root / "icl", config=named(method="ifed_icl"))
    out = root / "report.html"
    assert main(["report", str(root), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    return Page(text), text


def test_every_figure_is_there_with_its_chart(built):
    read, _ = built
    places = [chart["data-chart"] for chart in read.charts]
    assert len(places) == len(set(places))
    assert set(read.specs) == set(places)
    of_all = {place.removeprefix("all-") for place in places if place.startswith("all-")}
    assert of_all == {"means", "pareto", "clients", "differences"}
    of_runs = {place.split("-", 2)[2] for place in places if place.startswith("run-")}
    own = {"curves", "bytes", "weights", "partition", "similarity", "matrix", "time"}
    assert of_runs == own | {"agreement", "clusters", "coefficients", "coefficients-by-round"}
    assert len([place for place in places if place.endswith("-curves")]) == 3


def test_nothing_of_the_page_is_loaded_from_elsewhere(built):
    read, text = built
    for tag, attrs in read.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert not set(attrs) & {"src", "srcset", "data", "action", "onclick", "onload"}, tag
    (policy,) = [one["content"] for one in read.all("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not [place for place, spec in read.specs.items() if "http" in json.dumps(spec)]


def test_each_chart_says_in_words_and_in_a_table_what_it_shows(built):
    read, text = built
    figures = text.split("<figure ")[1:]
    assert len(figures) == len(read.charts)
    for chart, figure in zip(read.charts, figures, strict=True):
        assert chart["role"] == "img"
        assert len(chart["aria-label"]) > 40
        table = figure[: figure.index("</figure>")]
        assert table.count("<tr>") >= 2
        assert '<th scope="col">' in table
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "<noscript>" in text


def test_every_chart_compiles_in_vega(built):
    import vl_convert

    read, _ = built
    for place, spec in read.specs.items():
        if not place.startswith("run-2"):
            vega = vl_convert.vegalite_to_vega({**spec, "config": charts.CONFIG})
            assert vega["marks"], place


def test_the_table_warnings_and_config_are_on_the_page(tmp_path, capsys):
    folder = full_run(tmp_path / "a")
    about = json.loads((folder / "run.json").read_text())
    about |= {"warnings": ["client 7 is odd"], "base-fingerprint": "f00d" * 16, "git-sha": "abc123"}
    (folder / "run.json").write_text(json.dumps(about))
    assert main(["report", str(folder), "--out", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    for part in ("client 7 is odd", "f00d" * 16, "abc123", "name: fedreft", "75.0"):
        assert part in text
    assert capsys.readouterr().out.startswith(f"report: {tmp_path / 'r.html'} (1 run, ")


def test_what_a_run_holds_cannot_become_code(tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    full_run(tmp_path / "a", config={"method": {"about": {"name": evil}}})
    made_run(tmp_path / "b", [[0.5, 0.5]])
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 0
    read = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert len(read.all("script")) == 3
    assert read.all("img") == []
    assert any(evil in json.dumps(spec) for spec in read.specs.values())


def test_curves_are_in_percent_by_round_with_the_base_as_round_0(tmp_path):
    figure = scores.curves(files_of(full_run(tmp_path / "a")))
    assert {"round": 0, "client": "client 1", "score": 10.0} in points_of(figure)
    assert {"round": 3, "client": scores.MEAN, "score": 75.0} in points_of(figure)
    assert list(figure.rows[2]) == [2, 60.0, 50.0, 70.0]
    assert "lowest at the end is client 0 with 60 %" in figure.said


def test_bytes_are_those_of_all_clients_until_then(tmp_path):
    figure = scores.bytes_curve(files_of(full_run(tmp_path / "a")))
    assert [list(row) for row in figure.rows] == [
        [0, 0, 10.0, 10.0],
        [1, 400, 30.0, 20.0],
        [2, 800, 60.0, 50.0],
        [3, 1200, 75.0, 60.0],
    ]


def test_weights_are_those_of_training_alone(tmp_path):
    figure = scores.weights(files_of(full_run(tmp_path / "a")))
    assert [list(row) for row in figure.rows] == [[2, 0.25, 1.0], [3, 0.5, 0.75]]
    assert "from 0.25 to 1.00" in figure.said


def test_adapters_are_compared_by_their_cosine(tmp_path):
    figure = clients.similarity(files_of(full_run(tmp_path / "a")))
    assert [list(row) for row in figure.rows] == [[0, 1.0, 0.7071], [1, 0.7071, 1.0]]


def test_the_matrix_has_models_down_and_rows_across(tmp_path):
    figure = clients.matrix(files_of(full_run(tmp_path / "a")))
    assert [list(row) for row in figure.rows] == [[0, 60.0, 30.0], [1, 10.0, 90.0]]
    assert {"across": "1", "down": "0", "value": 30.0} in points_of(figure)
    assert "75.0 % on a client's own rows, 20.0 % on others' rows" in figure.said


def test_rows_are_counted_by_label_where_there_are_labels(tmp_path):
    folder = full_run(tmp_path / "a")
    figure = clients.partition(files_of(folder))
    assert [list(row) for row in figure.rows] == [[0, 8, 2, 6], [1, 8, 3, 5]]
    assert list(figure.columns) == ["client", "all", "cold", "warm"]
    for path in folder.glob("adapters/*/client.json"):
        about = json.loads(path.read_text())
        about["rows"]["train"]["by-label"] = {}
        path.write_text(json.dumps(about))
    assert list(clients.partition(files_of(folder)).columns) == ["client", "all", "topic"]


def test_votes_coefficients_and_times_are_read_from_their_files(tmp_path):
    run = files_of(full_run(tmp_path / "a", config=named(method="ifed_icl")))
    assert [list(row) for row in course.agreement(run).rows] == [[1, 80.0, 90.0], [2, 80.0, 90.0]]
    assert [list(row) for row in course.cluster_sizes(run).rows] == [["1", 3, 7], ["2", 3, 7]]
    injected = course.coefficients(run)
    assert list(injected.columns) == [
        "layer",
        "lambda, attention",
        "beta, attention",
        "lambda, MLP",
        "beta, MLP",
    ]
    assert list(injected.rows[2]) == [2, 0.5, 0.5, 0.5, 0.5]  # lambda: the mean of 0 and 1
    assert [list(row) for row in course.time_by_phase(run).rows] == [
        ["start", 1.5, None, None],
        ["train", 5.0, 3.0, 1.25],
        ["evaluate", 0.5, None, None],
        ["end", 0.5, None, None],
    ]


def test_coefficients_of_every_round_are_drawn_by_layer(tmp_path):
    folder = full_run(tmp_path / "a", config=named(method="ifed_icl"))
    values = np.arange(12.0).reshape(3, 2, 2) / 8
    write_lines(
        folder / "coefficients.jsonl", [{"server-round": n, "values": (n * values).tolist()} for n in (2, 3)]
    )
    figure = course.coefficients_by_round(files_of(folder))
    panels = [panel for line in figure.spec["vconcat"] for panel in line["hconcat"]]
    titles = [panel["title"] for panel in panels]
    assert titles == ["lambda, attention", "beta, attention", "lambda, MLP", "beta, MLP"]
    points = figure.spec["datasets"][panels[2]["data"]["name"]]  # lambda of the MLP: 2, 6 and 10 of 12
    assert [row["value"] for row in points] == [0.5, 1.5, 2.5, 0.75, 2.25, 3.75]
    apart = {"scale": {"color": "independent"}}  # lambda lies near 0, beta near 1
    assert [line["resolve"] for line in figure.spec["vconcat"]] == [apart, apart]
    assert points[1] == {"across": 2, "down": 1, "value": 1.5}
    row = dict(zip(figure.columns, figure.rows[1], strict=True))
    assert (row["round"], row["lambda, MLP: least"], row["lambda, MLP: mean"]) == (3, 0.75, 2.25)
    write_lines(folder / "coefficients.jsonl", [{"server-round": 2, "values": values.tolist()}])
    assert course.coefficients_by_round(files_of(folder)) is None  # the last round's stand above


def test_a_run_without_more_than_scores_has_figures_of_scores_alone(tmp_path):
    run = files_of(made_run(tmp_path / "a", ROUNDS))
    made = {make.__name__ for make in page.OF_RUN if make(run)}
    assert made == {"curves", "bytes_curve"}


def test_the_front_holds_what_nothing_beats_with_as_few_bytes():
    points = [(10.0, 5.0), (0.0, 1.0), (20.0, 4.0), (10.0, 3.0), (30.0, 9.0), (5.0, 1.0)]
    assert between.front(points) == [(0.0, 1.0), (10.0, 5.0), (30.0, 9.0)]


def test_scores_of_a_single_round_are_no_course(tmp_path):
    made_run(tmp_path / "run", [[0.4, 0.6]])
    compared = compare_runs([tmp_path], pytest.fail)
    assert between.means_by_round(compared) is None
    assert scores.curves(read_files(compared.results[0], "a run", pytest.fail)) is None
    assert between.pareto(compared) is not None


@pytest.mark.parametrize("count", [charts.MOST_SERIES, charts.MOST_SERIES + 1])
def test_where_no_legend_names_configurations_those_on_the_front_have_numbers(tmp_path, count):
    for n in range(count):
        made_run(tmp_path / str(n), ROUNDS, config=named(method=f"m{n}"))
    figure = between.pareto(compare_runs([tmp_path], pytest.fail))
    drawn = [layer for layer in figure.spec["layer"] if (layer.get("mark") or {}).get("type") == "text"]
    if count <= charts.MOST_SERIES:
        assert not drawn
        assert "On it" not in figure.note
        return
    values = figure.spec["datasets"][drawn[0]["data"]["name"]]
    assert [row["number"] for row in values] == [str(n + 1) for n in range(len(values))]
    assert all(f"{row['number']}: {row['configuration']}" in figure.note for row in values)


def test_many_clients_get_one_look_and_small_cells(tmp_path):
    folder = made_run(tmp_path / "a", [[n / 40 for n in range(40)]] * 2)
    spec = scores.curves(files_of(folder)).spec
    assert "shape" not in json.dumps(spec["layer"])
    rows = [{"across": str(i), "down": str(j), "value": 0.5} for i in range(40) for j in range(40)]
    wide = charts.heat_map(rows, ".2f", [0, 1], across="a", down="b", value="c").to_dict()
    assert wide["width"] <= 12 * charts.CELL
    assert "layer" not in wide


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", ["#ffffff", "#15181d"])
def test_series_stand_out_on_both_papers_and_differ_without_colour(built, paper):
    _, text = built
    assert f"--paper: {paper}" in text
    for colour in charts.COLOURS:
        low, high = sorted((luminance(colour), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour  # WCAG 2.2, 1.4.11
    assert len(set(map(str, charts.DASHES))) == len(set(charts.SHAPES)) == len(charts.COLOURS)


def test_a_damaged_file_beside_the_scores_is_named_and_the_page_does_without_it(tmp_path, capsys):
    folder = full_run(tmp_path / "a")
    (folder / "events.jsonl").write_text("{")
    (folder / "adapters" / "client-0" / "adapter.safetensors").write_bytes(b"no")
    assert main(["report", str(folder), "--out", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().err == (
        f"fedapp: warning: {folder / 'events.jsonl'} cannot be read, the page does without it\n"
    )
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "run-1-curves" in text
    assert "run-1-time" not in text
    assert "run-1-similarity" not in text


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"status": "running", "pid": 1}, "the run died, process 1 has gone without a word"),
        ({"status": "failed", "reason": "too few replies"}, "the run failed, too few replies"),
    ],
)
def test_a_run_that_did_not_complete_makes_no_page(tmp_path, capsys, status, said):
    folder = full_run(tmp_path / "a")
    (folder / "run.json").write_text(json.dumps(status))
    assert main(["report", str(folder), "--out", str(tmp_path / "r.html")]) == 2
    assert capsys.readouterr().err == (
        f"fedapp: warning: {folder} is left out: {said}\nfedapp: error: no finished run in {folder}\n"
    )
    assert not (tmp_path / "r.html").exists()


def test_a_page_without_a_place_is_one_line(tmp_path, capsys):
    folder = full_run(tmp_path / "a")
    assert main(["report", str(folder), "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert "which does not exist; it must be a file to write" in capsys.readouterr().err
    assert main(["report", str(folder), "--out", str(tmp_path)]) == 2
    assert "is a folder; it must be a file to write" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["altair", "vl_convert", "jinja2"])
def test_a_missing_library_is_one_line_that_says_how_to_get_it(tmp_path, capsys, monkeypatch, library):
    folder = full_run(tmp_path / "a")
    monkeypatch.setitem(sys.modules, library, None)
    for name in [name for name in sys.modules if name.startswith("fedapp.reporting.page.")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["report", str(folder), "--out", str(tmp_path / "r.html")]) == 2
    said = f"fedapp: error: a report needs {library}: pip install 'fedapp[report]'\n"
    assert capsys.readouterr().err == said
