"""The command line as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.cli import main
from treadle.core.result import read_result
from treadle.model import tiny
from treadle.verbs import VERBS


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.build("llama", tmp_path_factory.mktemp("models") / "llama")


def test_prune_then_evaluate_against_the_dense_model(model, tmp_path, capsys):
    out, dense, pruned = tmp_path / "small", tmp_path / "dense.ppl", tmp_path / "small.ppl"
    evaluate = ["evaluate", "perplexity", "--data", "stdlib:heldout", "--num-windows", "4"]
    evaluate += ["--window-tokens", "64"]
    assert main([*evaluate, str(model), str(dense)]) == 0
    prune = ["prune", "wanda", str(model), str(out), "--sparsity", "0.5", "--num-windows", "4"]
    assert main([*prune, "--window-tokens", "64", "--text", "stdlib:calibration"]) == 0
    assert main([*evaluate, str(out), str(pruned), "--baseline", str(dense)]) == 0
    said = capsys.readouterr().out
    assert "perplexity_ratio" in said
    assert "peak" in said
    result = read_result(out)
    assert result.method == "wanda"
    assert result.measurement("sparsity").value == pytest.approx(0.5)
    assert read_result(pruned).measurement("perplexity_ratio").low is not None


def test_method_field_becomes_a_flag_and_lands_in_the_settings(model, tmp_path):
    words = ["prune", "ria", str(model), str(tmp_path / "o"), "--exponent", "0.25"]
    words += ["--text", "stdlib:calibration", "--num-windows", "2", "--window-tokens", "32"]
    assert main(words) == 0
    assert (
        json.loads((tmp_path / "o" / "treadle.json").read_text())["provenance"]["settings"][
            "exponent"
        ]
        == 0.25
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prune", "wnda"], "wanda"),
        (["pruen"], "prune"),
        (["prune", "wanda", "m", "o", "--sparsty", "0.3"], "--sparsity"),
        (["prune", "magnitude", "m", "o", "--update", "obz"], "obs"),
        (["evaluate", "perplexity", "m", "o"], "--data"),
    ],
)
def test_misspelling_is_answered_with_the_near_one(words, says, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert says in captured.out + captured.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prune", "magnitude", "/nowhere", "o"], "CheckpointError: No model folder at '/nowhere'"),
        (["prune", "wanda", "MODEL", "o"], "SettingsError: 'wanda' with update 'none'"),
        (["prune", "magnitude", "MODEL", "o", "--sparsity", "1.5"], "outside 0..1"),
        (["prune", "magnitude", "MODEL", "o", "--pattern", "2:5"], "no multiple of 5"),
        (["prune", "magnitude", "MODEL", "o", "--pattern", "rowz"], "Did you mean 'rows'?"),
    ],
)
def test_mistake_gives_status_2_and_the_mend(words, says, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(model) if word == "MODEL" else word for word in words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_models_own_folder_is_not_an_output(model, capsys):
    for out in (model, model / "sub"):
        assert main(["prune", "magnitude", str(model), str(out), "--overwrite"]) == 2
        assert "is the model's own folder, or lies in it" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(model, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("treadle.shrink.prune.apply.prune_model", interrupted)
    assert main(["prune", "magnitude", str(model), str(tmp_path / "o")]) == 130
    assert "The same command goes on where it stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["prune", "MODEL", "wanda", "out", "--sparsity", "0.5"],
            "'wanda' comes first: treadle prune wanda MODEL out --sparsity 0.5",
        ),
        (["curate", "data", "out", "minhash"], "'minhash' comes first: treadle curate minhash"),
        (["curate", "data", "pack", "out"], "'pack' comes first: treadle curate pack data out"),
        (["curate", "minhash", "new", "HERE"], "data and out may have changed places"),
    ],
)
def test_words_in_another_order(words, says, tmp_path, capsys):
    words = [str(tmp_path) if word == "HERE" else word for word in words]
    assert main(words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1.5", "nan", "-1"])
def test_bounds_of_a_setting_that_may_be_left_out(value, tmp_path, capsys):
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
    words = ["curate", "minhash", str(tmp_path / "data.jsonl"), str(tmp_path / "out")]
    assert main([*words, f"--threshold={value}"]) == 2
    said = capsys.readouterr().err
    assert "threshold = " in said
    assert "is refused: expected" in said
    assert "pydantic" not in said


def test_an_output_that_cannot_be_made(model, capsys):
    assert main(["prune", "magnitude", str(model), "/proc/none/o"]) == 2
    said = capsys.readouterr().err
    assert "'/proc/none/o' cannot be written (No such file or directory); choose" in said


def test_help_lists_every_verb_under_its_wing(capsys):
    main(["--help"])
    said = capsys.readouterr().out
    for verb in VERBS.values():
        assert verb.name in said
    assert "shrink - fewer weights" in said


def test_module_form_and_version():
    done = subprocess.run(
        [sys.executable, "-m", "treadle", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.strip()


def test_whole_numbers_bounds_and_lists(model, tmp_path, capsys):
    assert main(["merge", "linear", str(model), str(tmp_path / "m")]) == 0
    said = capsys.readouterr().out
    assert " parameters  " in said
    assert ".0000 numbers" not in said
    assert main(["merge", "ties", "--help"]) == 0
    assert "(>= 0.0, <= 1.0)" in " ".join(capsys.readouterr().out.replace("│", "").split())
    assert main(["merge", "ties", "a", "b", "o", "--density", "1.5"]) == 2
    said = capsys.readouterr().err
    assert "merge method 'ties': density = 1.5 is refused: expected less than or equal to 1" in said
    assert main(["merge", "linear"]) == 2
    assert "name at least one model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "shown"),
    [("bench throughput", "one token to prompt_tokens"), ("prune wanda", "S_ij = |W_ij|")],
)
def test_help_shows_names_and_formulas_as_they_are(words, shown, capsys):
    assert main([*words.split(), "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "\\" not in text
    assert shown in text


CALIBRATED = ["--text", "stdlib:calibration", "--num-windows", "2", "--window-tokens", "32"]


def test_settings_of_an_axis_are_flags(model, tmp_path, capsys):
    words = ["prune", "wanda", str(model), str(tmp_path / "a"), *CALIBRATED]
    assert main([*words, "--update", "obs", "--update.damp-fraction", "0.1"]) == 0
    own = ["prune", "sparsegpt", str(model), str(tmp_path / "b"), *CALIBRATED]
    assert main([*own, "--update.block-columns=32", "--allocation.span", "0.1"]) == 2
    assert "'uniform' has no setting 'span'" in capsys.readouterr().err
    assert main([*own, "--update.block-columns=32"]) == 0
    updates = [read_result(tmp_path / name).settings["update"] for name in "ab"]
    assert updates[0] == {"method": "obs", "damp_fraction": 0.1, "block_columns": 128}
    assert updates[1] == {"method": "obs", "damp_fraction": 0.01, "block_columns": 32}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--update.damp-fraction", "0.1"], "prune update 'none' has no setting 'damp_fraction'"),
        (["--update", "obs", "--update.damp-fraction", "7"], "less than or equal to 1"),
        (["--update", "obs", "--update.damp-fractoin", "0.1"], "--update.damp-fraction"),
    ],
)
def test_a_setting_that_no_method_of_the_axis_has(flags, says, model, tmp_path, capsys):
    assert main(["prune", "magnitude", str(model), str(tmp_path / "o"), *flags]) == 2
    captured = capsys.readouterr()
    assert says in captured.out + captured.err


@pytest.mark.parametrize("word", ["2.7", "two", "1e3"])
def test_a_whole_number_is_not_rounded_without_a_word(word, model, tmp_path, capsys):
    flags = ["--num-windows", word]
    assert main(["prune", "magnitude", str(model), str(tmp_path / "o"), *flags]) == 2
    assert "--num-windows" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_lists_take_spaces_or_commas(model, tmp_path):
    other, base = (tiny.build("llama", tmp_path / f"m{seed}", seed=seed) for seed in (7, 8))
    merge = ["merge", "ties", str(model), str(other), "--base", str(base)]
    for name, words in {"a": ["0.5", "0.25"], "b": ["0.5,0.25"]}.items():
        assert main([*merge, str(tmp_path / name), "--density", *words]) == 0
        assert read_result(tmp_path / name).settings["density"] == [0.5, 0.25]


def test_sizes_take_units_and_no_bare_numbers(model, capsys):
    plan = ["plan", "memory", str(model), "--batch", "1", "--seq", "16", "--budget"]
    assert main([*plan, "24"]) == 2
    assert "size '24' has no unit; write 24GiB" in capsys.readouterr().err
    assert main([*plan, "24XB"]) == 2
    assert "expected a number and a unit" in capsys.readouterr().err
    assert main([*plan, "2GB"]) == 0
    assert "of 2.00 GB" in capsys.readouterr().out


def test_settings_of_an_engine_are_flags_judged_in_our_words(model, tmp_path, capsys):
    words = ["evaluate", "perplexity", str(model), str(tmp_path / "o"), "--data"]
    words += ["stdlib:heldout", "--through", "runtime"]
    for flags, says in {
        ("--page-size", "0"): "page_size = 0 is refused: expected greater than or equal to 1",
        (
            "--keep",
            "sinks",
            "--keep-budget",
            "2",
        ): "Found keep_budget=2, and keep='sinks' always keeps",
        ("--keep", "sincs"): "sinks",
        ("--keep", "sinks", "--keep-budget", "9", "--keep.spread", "0.1"): "--keep.s",
        ("--keep", "sinks", "--keep-budget", "half"): "--keep-budget",
        ("--cache-bytes", "24"): "has no unit",
        ("--weights", "q9"): "q8",
    }.items():
        assert main([*words, *flags]) == 2
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert says in said
        assert "pydantic" not in said


def test_an_engines_settings_reach_the_result(model, tmp_path):
    words = ["evaluate", "perplexity", str(model), str(tmp_path / "o"), "--data"]
    words += ["stdlib:heldout", "--num-windows", "2", "--window-tokens", "64"]
    flags = ["--through", "runtime", "--keep", "random", "--keep.chunk-tokens", "16"]
    assert main([*words, *flags, "--keep-budget", "0.5", "--cache-bytes", "8MiB"]) == 0
    result = read_result(tmp_path / "o")
    assert result.is_control
    assert result.settings["cache_bytes"] == 8 << 20
    assert result.settings["keep"]["chunk_tokens"] == 16
    assert result.settings["keep_budget"] == 0.5


def test_the_command_does_not_wait_for_pandas(tmp_path):
    """pyarrow would import it where it is installed, which no verb needs."""
    (tmp_path / "docs.jsonl").write_text('{"text": "one"}\n{"text": "one"}\n')
    words = ["treadle", "curate", "exact", str(tmp_path / "docs.jsonl"), str(tmp_path / "out")]
    script = "import sys; sys.argv = sys.argv[1:]\nfrom treadle.cli import main\n"
    script += "assert main() == 0\nassert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, *words], check=True)
    assert read_result(tmp_path / "out").measurement("kept").value == 1
