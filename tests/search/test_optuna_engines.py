"""NSGA-II and TPE: every setting is a member, small spaces give their optimum and front, a seed
gives one outcome."""

from __future__ import annotations

import math
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import combinations, product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.blocks import Identity
from nas.errors import InputError, NasError
from nas.latency.table import make_table
from nas.search.engines.optuna import engine, workers
from nas.search.engines.optuna.encoding import Encoding
from nas.search.engines.optuna.engine import search_optuna
from nas.search.engines.optuna.storage import StudySettings
from nas.search.fastest import fastest


@pytest.fixture
def spaces(small_space, choices_space, stem_space):
    """Functions from the placement of attention to a space, by the space's name."""
    return {"small": small_space, "choices": choices_space, "stem": stem_space}


@pytest.fixture
def tiny(stem_space, made_up_table, made_up_scores):
    """A space with choices at most places, a table and scores for it, and what every member takes
    (ms, points)."""
    whole = stem_space()
    first = replace(whole.stages[0], entries=whole.stages[0].entries[:1])
    space = replace(whole, published={}, stems=whole.stems[:2], stages=(first, *whole.stages[1:]))
    table = made_up_table(space)
    scores = made_up_scores(space, 1)
    return (
        space,
        table,
        scores,
        {(table.total_ms(arch), scores.cost(arch)) for arch in dropped(space)},
    )


def dropped(space):
    """Every member with every way to leave out positions."""
    for arch in space.enumerate():
        for stages in product(*map(placings, space.stages, arch.stages)):
            yield replace(arch, stages=stages)


def placings(space, stage):
    most = space.depths[1]
    for kept in combinations(range(most), stage.depth):
        blocks = dict(zip(kept, stage.blocks, strict=True))
        yield replace(
            stage, blocks=tuple(blocks.get(position, Identity()) for position in range(most))
        )


def target_at(share, space, table):
    """Latency between that of the fastest member (0) and of the largest (1)."""
    least = fastest(space, table)[0]
    return least + share * (table.total_ms(space.largest()) - least)


def front_of(points):
    """The points that no other beats in both, by a look at every pair."""
    points = set(points)
    return {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}


class TestEncoding:
    @pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
    @pytest.mark.parametrize("named", ["small", "choices", "stem"])
    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_every_member_has_a_setting_and_every_setting_is_a_member(
        self, spaces, named, attention, seed
    ):
        space = spaces[named](attention)
        encoding = Encoding(space)
        arch = space.sample(seed)
        assert encoding.decode(encoding.encode(arch)).stages == space.place(arch).stages
        rng = random.Random(seed)
        made = encoding.decode({v.name: rng.randint(v.low, v.high) for v in encoding.variables})
        space.validate(made)
        assert encoding.decode(encoding.encode(made)) == made

    def test_what_has_one_value_is_no_variable(self, stem_space):
        names = {variable.name for variable in Encoding(stem_space()).variables}
        assert {"stem", "stage1_entry", "stage1_width", "attention"} <= names
        assert not names & {
            "head",
            "stage1_depth",
            "stage2_width",
            "stage1_block1_rank",
            "stage1_block1_local",
        }

    def test_a_stranger_has_no_setting(self, small_space, stem_space):
        with pytest.raises(ValueError, match="stem"):
            Encoding(small_space()).encode(stem_space().largest())


class TestSearch:
    @pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
    def test_the_optimum_of_a_tiny_space(self, tiny, sampler):
        space, table, scores, points = tiny
        target = sorted(ms for ms, _ in points)[len(points) // 10]
        studied = search_optuna(
            space, table, scores.cost, target, sampler, trials={"nsga2": 250, "tpe": 100}[sampler]
        )
        found = studied.found
        assert found.ms <= target and found.ms == table.total_ms(found.architecture)
        assert found.cost == scores.cost(found.architecture)
        assert found.cost == pytest.approx(min(cost for ms, cost in points if ms <= target))
        space.validate(found.architecture)

    def test_the_front_of_a_tiny_space(self, tiny):
        space, table, scores, points = tiny
        front = search_optuna(space, table, scores.cost, None, "nsga2", trials=300).front
        assert hypervolume([(p.ms, p.cost) for p in front], front_of(points)) >= 0.98
        assert {(p.ms, p.cost) for p in front} == front_of((p.ms, p.cost) for p in front)
        assert all(
            (p.ms, p.cost) == (table.total_ms(p.architecture), scores.cost(p.architecture))
            for p in front
        )

    @pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
    def test_costs_need_not_add_up(self, small_space, made_up_table, sampler):
        """The cost of the product of widths, which no sum of moves gives."""
        space = small_space()
        table = made_up_table(space)

        def cost(arch):
            return -math.prod(arch.widths) / 1e5 * (1 if sum(arch.depths) % 2 else 2)

        target = target_at(0.5, space, table)
        found = search_optuna(space, table, cost, target, sampler, trials=60).found
        best = min(cost(arch) for arch in space.enumerate() if table.total_ms(arch) <= target)
        assert found.cost <= 0.8 * best

    @pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
    def test_a_seed_gives_one_outcome(self, small_space, made_up_table, made_up_scores, sampler):
        space = small_space()
        table = made_up_table(space, 0)
        scores = made_up_scores(space)

        def searched(seed):
            asked = []

            def cost(arch):
                asked.append(arch)
                return scores.cost(arch)

            studied = search_optuna(space, table, cost, math.inf, sampler, trials=40, seed=seed)
            return asked, studied

        first, again, other = (searched(seed) for seed in (3, 3, 4))
        assert first == again
        assert first[0] != other[0]

    def test_a_member_is_asked_for_once_and_only_within_the_limits(
        self, small_space, made_up_table, made_up_scores
    ):
        space = small_space()
        table = made_up_table(space, 0)
        scores = made_up_scores(space)
        asked = []
        target = target_at(0.4, space, table)
        most = space.largest().params // 2

        def cost(arch):
            asked.append(arch)
            return scores.cost(arch)

        studied = search_optuna(space, table, cost, target, trials=100, limits={"params": most})
        assert len(asked) == len(set(asked)) == studied.evaluated
        assert all(table.total_ms(arch) <= target and arch.params <= most for arch in asked)
        assert studied.trials == 100

    def test_members_that_the_device_cannot_run_are_out(
        self, small_space, made_up_table, made_up_scores
    ):
        space = small_space()
        table = made_up_table(space)
        usable = make_table(
            table.device, [row for row in table.rows.values() if "32x4x4" not in row.input]
        )
        space = replace(space, published={})
        with pytest.raises(
            InputError, match="no row for"
        ):  # nobody said that the device cannot, so it is a mistake
            search_optuna(space, usable, made_up_scores(space).cost, math.inf, trials=30)

    def test_progress(self, small_space, made_up_table, made_up_scores):
        told = []
        space = small_space()
        search_optuna(
            space,
            made_up_table(space),
            made_up_scores(space).cost,
            math.inf,
            trials=5,
            progress=lambda *given: told.append(given),
        )
        assert told == [("trials", done, 5) for done in range(6)]

    def test_dropped_positions_stay_where_they_were(
        self, small_space, made_up_table, made_up_scores
    ):
        space = small_space()
        table = made_up_table(space)
        found = search_optuna(
            space, table, made_up_scores(space).cost, target_at(0.1, space, table), trials=60
        ).found
        assert [len(stage.blocks) for stage in found.architecture.stages] == [2, 2, 3, 2]
        assert any(
            isinstance(block, Identity)
            for stage in found.architecture.stages
            for block in stage.blocks
        )


class TestStudies:
    def test_the_same_command_goes_on(self, small_space, made_up_table, made_up_scores, tmp_path):
        space = small_space()
        table = made_up_table(space, 0)
        scores = made_up_scores(space)
        asked = []

        def cost(arch):
            asked.append(arch)
            return scores.cost(arch)

        def run(trials):
            return search_optuna(
                space, table, cost, 9.0, trials=trials, storage=f"sqlite:///{tmp_path}/study.db"
            )

        assert run(8).trials == 8
        again = run(8)  # nothing is left to do
        before = len(asked)
        longer = run(14)
        assert (again.trials, longer.trials) == (8, 14)
        # A run that asks for fewer trials than there are takes all of them, and adds none.
        fewer = run(3)
        assert (fewer.trials, fewer.found) == (14, longer.found)
        assert longer.found.cost <= again.found.cost
        assert (
            len(asked) == len(set(asked)) > before
        )  # what the storage knows is not asked for again

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ("space", "space"),
            ("table", "table"),
            ("target", "latency target ms"),
            ("limits", "limits"),
            ("costs", "costs"),
        ],
    )
    def test_a_study_of_something_else_is_refused(
        self, small_space, made_up_table, made_up_scores, tmp_path, change, what
    ):
        space = small_space()
        table = made_up_table(space, 0)
        given = {
            "trials": 1,
            "storage": f"sqlite:///{tmp_path}/s.db",
            "study": "mine",
            "cost_id": "a",
        }
        search_optuna(space, table, made_up_scores(space).cost, 15.0, **given)
        other = small_space("stage_suffix") if change == "space" else space
        given |= {"cost_id": "b"} if change == "costs" else {}
        given |= {"limits": {"macs": 1e12}} if change == "limits" else {}
        changed = made_up_table(other, 1 if change == "table" else 0)
        with pytest.raises(
            InputError, match=f"study 'mine' in sqlite:.*s.db is of another {what} .*--study"
        ):
            search_optuna(
                other,
                changed,
                made_up_scores(other).cost,
                16.0 if change == "target" else 15.0,
                **given,
            )

    @pytest.mark.parametrize(("first", "second"), [("nsga2", "tpe"), ("tpe", "nsga2")])
    def test_a_study_of_an_engine_with_other_objectives_is_refused(
        self, small_space, made_up_table, made_up_scores, tmp_path, first, second
    ):
        space = small_space()
        given = {"trials": 2, "storage": f"sqlite:///{tmp_path}/s.db", "study": "mine"}
        search_optuna(space, made_up_table(space), made_up_scores(space).cost, 15.0, first, **given)
        with pytest.raises(
            InputError,
            match=r"study 'mine' in sqlite:.*s.db: was begun by an engine with other obj",
        ):
            search_optuna(
                space, made_up_table(space), made_up_scores(space).cost, 15.0, second, **given
            )

    def test_a_study_in_another_direction_is_refused_and_left_as_it_is(
        self, small_space, made_up_table, made_up_scores, tmp_path
    ):
        import optuna

        url = f"sqlite:///{tmp_path}/s.db"
        theirs = optuna.create_study(storage=url, study_name="mine", direction="maximize")
        space = small_space()
        with pytest.raises(InputError, match=r"got minimize, expected maximize\)"):
            search_optuna(
                space,
                made_up_table(space),
                made_up_scores(space).cost,
                15.0,
                "tpe",
                storage=url,
                study="mine",
            )
        assert theirs.user_attrs == {}

    @pytest.mark.parametrize("version", ["v2.6.0.a", "v99.0.0.a"])
    def test_a_storage_of_another_optuna_is_refused(
        self, small_space, made_up_table, made_up_scores, tmp_path, version
    ):
        space = small_space()
        given = {"trials": 1, "storage": f"sqlite:///{tmp_path}/s.db"}
        search_optuna(space, made_up_table(space), made_up_scores(space).cost, 15.0, **given)
        with sqlite3.connect(tmp_path / "s.db") as database:
            database.execute("update alembic_version set version_num = ?", (version,))
        with pytest.raises(
            InputError,
            match=r"s.db: its tables are of another version.*Fix: optuna storage upgrade",
        ):
            search_optuna(space, made_up_table(space), made_up_scores(space).cost, 15.0, **given)

    def test_the_trial_of_a_process_that_has_ended_is_not_waited_for(
        self, small_space, made_up_table, made_up_scores, tmp_path
    ):
        import optuna

        space = small_space()
        given = {"storage": f"sqlite:///{tmp_path}/s.db", "study": "mine", "heartbeat_s": 1000}
        search_optuna(
            space, made_up_table(space), made_up_scores(space).cost, 15.0, trials=2, **given
        )
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        study = optuna.load_study(study_name="mine", storage=given["storage"])
        study.ask().set_user_attr(workers.WORKER, f"{platform.node()}:{ended.pid}")
        found = search_optuna(
            space, made_up_table(space), made_up_scores(space).cost, 15.0, trials=3, **given
        )
        assert found.trials == 3
        assert [trial.state.name for trial in study.get_trials()].count("FAIL") >= 1

    def test_processes_of_one_machine_share_a_journal(
        self, small_space, made_up_table, made_up_scores, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        space = small_space()
        files = set()
        found = search_optuna(
            space,
            made_up_table(space),
            made_up_scores(space).cost,
            15.0,
            trials=12,
            workers=2,
            progress=lambda *told: files.update(
                path.name for path in tmp_path.glob("nas-study-*/*")
            ),
        )
        assert found.trials == 12
        assert "study.log" in files and not list(tmp_path.glob("nas-study-*"))

    def test_somebody_elses_study_is_refused(
        self, small_space, made_up_table, made_up_scores, tmp_path
    ):
        import optuna

        url = f"sqlite:///{tmp_path}/s.db"
        space = small_space()
        theirs = optuna.create_study(storage=url, study_name="mine")
        theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        with pytest.raises(InputError, match="is of another space"):
            search_optuna(
                space,
                made_up_table(space),
                made_up_scores(space).cost,
                9.0,
                "tpe",
                storage=url,
                study="mine",
            )

    @pytest.mark.parametrize(
        ("storage", "kind", "message"),
        [
            ("study.db", InputError, "storage study.db: is not the URL of a database"),
            ("nosuch://x/y", InputError, "is not the URL of a database"),
            (
                "sqlite:////nowhere/at/all/s.db",
                NasError,
                "storage sqlite:////nowhere/at/all/s.db: cannot be used",
            ),
            (
                "postgresql://me:secret@127.0.0.1:1/x",
                NasError,
                "postgresql://me:\\*\\*\\*@127.0.0.1:1/x: cannot be used",
            ),
            ("oracle://me@127.0.0.1/x", InputError, "the driver of this database is not installed"),
            (
                "postgresql://me:a@secret@h:1/x",
                InputError,
                "@h:1/x: the password has an '@'.*Fix: %40",
            ),
            ("postgresql://127.0.0.1:1/x?passwort=secret", NasError, "passwort=\\*\\*\\*: cannot"),
            (
                "me:secret@127.0.0.1/x",
                InputError,
                "storage me:\\*\\*\\*@127.0.0.1/x: is not the URL",
            ),
            ("postgresql://me:secret/x", InputError, "me:\\*\\*\\*/x: the port is not a number"),
            (
                "postgresql://me:***@h/x",
                InputError,
                "the password is masked, .*Fix: \\${PGPASSWORD}",
            ),
            ("sqlite:///s.db?password=***", InputError, "the password is masked"),
            (
                "sqlite://",
                InputError,
                "keeps nothing .expected the path of a file.. Fix: sqlite:///",
            ),
            ("sqlite:///:memory:", InputError, "keeps nothing"),
            ("${NAS_NO_SUCH}", InputError, "the environment variable NAS_NO_SUCH is not set"),
            (
                "postgresql://me:${NAS_NO_SUCH}@h/x",
                InputError,
                "NAS_NO_SUCH is not set. Fix: export",
            ),
        ],
    )
    def test_a_storage_that_cannot_be_used(
        self, small_space, made_up_table, made_up_scores, storage, kind, message
    ):
        space = small_space()
        with pytest.raises(kind, match=message) as error:
            search_optuna(
                space, made_up_table(space), made_up_scores(space).cost, 9.0, storage=storage
            )
        assert "\n" not in str(error.value) and "secret" not in str(error.value)
        assert type(error.value) is kind

    @pytest.mark.parametrize(
        "storage", ["sqlite:///${NAS_FOLDER}/{s}.db?password=${NAS_WORD}", "${NAS_STORAGE}"]
    )
    def test_the_environment_fills_in_an_address(
        self, small_space, made_up_table, made_up_scores, tmp_path, monkeypatch, storage
    ):
        monkeypatch.setenv("NAS_FOLDER", str(tmp_path))
        monkeypatch.setenv("NAS_WORD", "a&b@c/d${e}")
        monkeypatch.setenv("NAS_STORAGE", f"sqlite:///{tmp_path}/{{s}}.db")
        space = small_space()
        given = {"storage": storage, "trials": 2}
        search_optuna(space, made_up_table(space), made_up_scores(space).cost, 15.0, **given)
        assert (tmp_path / "{s}.db").is_file()
        assert "NAS_" not in repr(StudySettings(**given))

    def test_a_storage_that_goes_away(
        self, small_space, made_up_table, made_up_scores, tmp_path, capfd
    ):
        space = small_space()
        file = tmp_path / "s.db"

        def cost(arch):
            file.write_bytes(b"no database any more" * 1000)
            return 0.0

        with pytest.raises(
            NasError, match=r"storage sqlite:.*s\.db: cannot be used .*\. Its trials are kept"
        ):
            search_optuna(
                space, made_up_table(space), cost, math.inf, storage=f"sqlite:///{file}", trials=5
            )
        assert "Traceback" not in capfd.readouterr().err

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"trials": 0}, "trials 0: expected 1 or more"),
            ({"workers": 0}, "workers 0"),
            ({"seed": -1}, "seed -1"),
            ({"trials": "5"}, "trials '5'"),
            ({"trials": math.nan}, "trials nan"),
            ({"workers": 1.5}, r"workers 1\.5"),
            ({"storage": 5}, "storage: expected"),
            ({"sampler": "cma"}, "unknown sampler 'cma'"),
            ({"limits": {"mac": 3}}, "unknown limit 'mac', did you mean"),
        ],
    )
    def test_bad_settings(self, small_space, made_up_table, made_up_scores, given, message):
        space = small_space()
        with pytest.raises(InputError, match=message):
            search_optuna(space, made_up_table(space), made_up_scores(space).cost, 9.0, **given)

    def test_costs_that_are_no_numbers(self, small_space, made_up_table):
        space = small_space()
        with pytest.raises(NasError, match="the cost of a member is nan: widths"):
            search_optuna(space, made_up_table(space), lambda arch: math.nan, math.inf, trials=5)

    def test_what_a_cost_raises_ends_the_study(self, small_space, made_up_table):
        space = small_space()

        def cost(arch):
            raise InputError("no such weights")

        with pytest.raises(InputError, match="no such weights"):
            search_optuna(space, made_up_table(space), cost, math.inf, trials=5)

    def test_what_a_cost_raises_in_every_worker_ends_the_study(
        self, small_space, made_up_table, capfd
    ):
        space = small_space()
        with pytest.raises(NasError, match=r"a trial failed \(ZeroDivisionError: division by zero"):
            search_optuna(space, made_up_table(space), divided, math.inf, trials=5, workers=2)
        assert "Traceback" not in capfd.readouterr().err

    def test_trials_that_fail_without_an_error_end_the_study(
        self, small_space, made_up_table, made_up_scores, monkeypatch
    ):
        """Optuna fails a trial whose values it does not take, and goes on."""
        monkeypatch.setattr(engine.Objective, "__call__", lambda self, trial: (1.0, 2.0, 3.0))
        space = small_space()
        with pytest.raises(NasError, match=r"5 trials in a row failed \(the study does not take"):
            search_optuna(space, made_up_table(space), made_up_scores(space).cost, 9.0, trials=50)

    def test_no_trial_within_the_limits(self, small_space, made_up_table, made_up_scores):
        space = small_space()
        with pytest.raises(NasError, match="none of 6 trials is within the limits"):
            search_optuna(space, made_up_table(space), made_up_scores(space).cost, 1e-6, trials=6)

    def test_costs_that_cannot_be_sent(self, small_space, made_up_table):
        space = small_space()
        with pytest.raises(
            InputError, match="workers 2: the costs cannot be sent to another process"
        ):
            search_optuna(
                space, made_up_table(space), lambda arch: 0.0, math.inf, trials=5, workers=2
            )


def divided(arch):
    return 1 / (arch.params - arch.params)


def hypervolume(points, reference):
    """The share of the area that the reference front dominates, within its own corners, that
    `points` dominate."""
    worst = max(p[0] for p in reference) * 1.1, max(p[1] for p in reference) + 1

    def area(front):
        total = 0.0
        height = worst[1]
        for ms, cost in sorted(front):
            if ms < worst[0] and cost < height:
                total += (worst[0] - ms) * (height - cost)
                height = cost
        return total

    return area(points) / area(reference)
