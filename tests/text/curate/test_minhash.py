"""Near-duplicates: recall as theory says, true similarities, and the pitfalls of published code."""

import math

import numpy as np
import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle.native.text import Texts
from treadle.text.curate import METHODS
from treadle.text.curate.base import Documents

NUM_SHINGLES = 120


def shingles(text, size=5):
    """Return the set of runs of words, naively."""
    words = text.lower().split()
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def similarity(one, other):
    """Return the Jaccard similarity, naively."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b) if a | b else 0.0


def pair(generator, target):
    """Return two texts whose shingle sets have about the Jaccard similarity `target`.

    They share a beginning, so that with n shingles each, of which c are shared, J = c / (2n - c).
    """
    words = corpora.words(generator, NUM_SHINGLES + 4, 1 << 30)
    common = round(2 * NUM_SHINGLES * target / (1 + target))
    return words, [*words[: common + 4], *corpora.words(generator, NUM_SHINGLES - common, 1 << 30)]


def run(tmp_path, texts, **settings):
    rows = [{"id": f"{n:05d}", "text": text} for n, text in enumerate(texts)]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    result = curate(data, tmp_path / "out", {"method": "minhash", **settings}, overwrite=True)
    return corpora.decisions(tmp_path / "out"), result


@pytest.mark.parametrize("preset", ["fineweb", "map-cc", "pythia"])
def test_recall_follows_the_curve(tmp_path, preset):
    generator = np.random.Generator(np.random.Philox(7))
    settings = {"preset": preset, "threshold": 0}
    if preset == "map-cc":
        settings |= {"shingle": 5}
    method = METHODS.resolve({"method": "minhash", **settings})
    texts, targets = [], []
    for target in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95):
        for _ in range(150):
            one, other = pair(generator, target)
            if preset == "map-cc":  # each word becomes a character, so that runs are the same
                alphabet = dict.fromkeys([*one, *other])
                places = generator.choice(20000, len(alphabet), replace=False)
                letters = dict(zip(alphabet, (chr(0x4E00 + p) for p in places), strict=True))
                one, other = ([letters[w] for w in words] for words in (one, other))
            texts += [" ".join(one), " ".join(other)]
            targets.append(target)
    decided, _ = run(tmp_path, texts, **settings)
    found = np.array(
        [
            not decided[f"{2 * n + 1:05d}"]["is_kept"] or not decided[f"{2 * n:05d}"]["is_kept"]
            for n in range(len(targets))
        ]
    )
    true = np.array([similarity(texts[2 * n], texts[2 * n + 1]) for n in range(len(targets))])
    for target in set(targets):
        inside = np.array(targets) == target
        expected = method.probability(true[inside])
        error = math.sqrt(max((expected * (1 - expected)).sum(), 0.5))
        assert abs(found[inside].sum() - expected.sum()) <= 4 * error, target


def test_jaccard_of_every_copy_is_the_true_one(tmp_path):
    generator = np.random.Generator(np.random.Philox(3))
    texts = []
    for target in (0.75, 0.85, 0.9, 0.97):
        for _ in range(10):
            texts += [" ".join(words) for words in pair(generator, target)]
    decided, _ = run(tmp_path, texts)
    copies = {name: row for name, row in decided.items() if not row["is_kept"]}
    assert len(copies) >= 30
    for name, row in copies.items():
        true = similarity(texts[int(name)], texts[int(row["kept_id"])])
        assert row["jaccard"] == pytest.approx(true, abs=1e-6)


def test_pythia_drops_by_true_similarity_whatever_the_bands_found(tmp_path):
    generator = np.random.Generator(np.random.Philox(5))
    texts = [
        " ".join(w) for t in (0.8, 0.84, 0.9, 0.95) for _ in range(20) for w in pair(generator, t)
    ]
    settings = {"preset": "pythia", "bands": 40, "rows": 4}
    decided, _ = run(tmp_path, texts, **settings)
    for n in range(0, len(texts), 2):
        true = similarity(texts[n], texts[n + 1])
        dropped = [not decided[f"{place:05d}"]["is_kept"] for place in (n, n + 1)]
        assert sum(dropped) == (true >= 0.87), true


def test_a_chain_does_not_pull_its_far_end_along(tmp_path):
    words = [f"w{n}" for n in range(200)]
    texts = [" ".join(words[start : start + 100]) for start in (0, 4, 8, 12, 60, 64)]
    decided, _ = run(tmp_path, texts, preset="pythia", bands=64, rows=2)
    kept = [name for name, row in decided.items() if row["is_kept"]]
    for name, row in decided.items():
        if not row["is_kept"]:
            assert similarity(texts[int(name)], texts[int(row["kept_id"])]) >= 0.87
    for one in kept:
        for other in kept:
            if one != other:
                assert similarity(texts[int(one)], texts[int(other)]) < 0.87


def chain(length, step=12, words=100):
    """Return texts of which each is a near copy of the next alone."""
    return [" ".join(f"w{n}" for n in range(step * k, step * k + words)) for k in range(length)]


def test_a_chain_is_one_cluster_and_the_result_says_how_far_it_reached(tmp_path):
    decided, result = run(tmp_path, chain(40), bands=20, rows=4)
    copies = [row for row in decided.values() if not row["is_kept"]]
    assert len(copies) == 39
    assert result.measurement("least_similarity").value == 0.0
    beyond = result.measurement("distant_copies_fraction")
    knee = (1 / 20) ** 0.25
    assert beyond.value == np.mean([row["jaccard"] < knee for row in copies]) > 0.6
    (note,) = [note for note in result.notes if "reached down to a similarity of 0.00" in note]
    assert "--clusters stars takes only what was found together with what is kept" in note


def test_stars_keep_one_of_what_was_found_together(tmp_path):
    texts = chain(40)
    decided, result = run(tmp_path, texts, bands=20, rows=4, clusters="stars")
    kept = {name for name, row in decided.items() if row["is_kept"]}
    assert 5 < len(kept) < 35
    for row in decided.values():
        assert row["is_kept"] or row["kept_id"] in kept
    assert result.measurement("least_similarity").value > 0.1
    assert result.measurement("distant_copies_fraction").value < 0.4
    assert not any("--clusters stars" in note for note in result.notes)
    strict, _ = run(tmp_path, texts, bands=20, rows=4, clusters="stars", threshold=0.7)
    for name, row in strict.items():
        if not row["is_kept"]:
            assert similarity(texts[int(name)], texts[int(row["kept_id"])]) >= 0.7
    assert sum(row["is_kept"] for row in strict.values()) >= len(kept)


def test_stars_are_what_a_naive_search_finds(tmp_path):
    """In the order of preference, each goes for the first that stays and shares a band with it."""
    texts = [str(row["text"]) for row in corpora.records(60)] + chain(20)
    method = METHODS.resolve({"method": "minhash", "bands": 20, "rows": 2})
    decided, _ = run(tmp_path, texts, bands=20, rows=2, clusters="stars")
    documents = Documents(Texts.of(texts), None)
    columns = method.measure(documents)
    keys = np.stack([columns[f"key_{band}"] for band in range(20)], axis=1)
    ranked = sorted(range(len(texts)), key=lambda n: (-len(texts[n].encode()), n))
    kept, wanted = [], {}
    for n in ranked:
        met = next((k for k in kept if (keys[k] == keys[n]).any()), None)
        wanted[f"{n:05d}"] = None if met is None else f"{met:05d}"
        kept += [n] if met is None else []
    assert {name: row["kept_id"] for name, row in decided.items()} == wanted


@pytest.mark.parametrize("clusters", ["linked", "stars"])
@pytest.mark.parametrize("threshold", [0, 0.6])
def test_decisions_do_not_depend_on_order_or_workers(tmp_path, clusters, threshold):
    texts = [*chain(30), *(str(row["text"]) for row in corpora.records(30))]
    found = []
    for order, workers in ((1, 1), (-1, 2)):
        rows = [{"id": f"{n:05d}", "text": text} for n, text in enumerate(texts)][::order]
        data = corpora.write_lines(tmp_path / "a.jsonl", rows)
        settings = {"bands": 40, "rows": 2, "clusters": clusters, "threshold": threshold}
        method = {"method": "minhash", **settings}
        curate(data, tmp_path / "out", method, overwrite=True, workers=workers)
        decided = corpora.decisions(tmp_path / "out")
        found.append({name: (row["kept_id"], row["jaccard"]) for name, row in decided.items()})
    assert found[0] == found[1]
    assert any(kept for kept, _ in found[0].values())


def test_every_door_takes_stars(tmp_path, capsys):
    from treadle.cli import main
    from treadle.recipe import run_recipe

    rows = [{"id": f"{n:05d}", "text": text} for n, text in enumerate(chain(30))]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    asked = ["--bands", "64", "--rows", "2", "--clusters", "stars"]
    assert main(["curate", "minhash", str(data), str(tmp_path / "shell"), *asked]) == 0
    (tmp_path / "r.yaml").write_text(
        f"out: {tmp_path}/runs\nsteps:\n  - curate: {{method: minhash, data: {data}, bands: 64, "
        f"rows: 2, clusters: stars, out: recipe}}\n"
    )
    assert len(list(run_recipe(tmp_path / "r.yaml"))) == 1
    found = [corpora.decisions(tmp_path / out) for out in ("shell", "runs/recipe")]
    assert found[0] == found[1]
    assert sum(row["is_kept"] for row in found[0].values()) > 3


@pytest.mark.parametrize("preset", ["fineweb", "map-cc"])
def test_short_documents_are_not_all_one_cluster(tmp_path, preset):
    texts = ["one", "two", "three four", "one", "...", "!!!", "短文", "短文"]
    decided, _ = run(tmp_path, texts, preset=preset)
    dropped = {name: row["kept_id"] for name, row in decided.items() if not row["is_kept"]}
    assert dropped == {"00003": "00000", "00007": "00006"}


def test_removal_says_which_document_absorbed_which(tmp_path):
    base = " ".join(f"w{n}" for n in range(100))
    decided, _ = run(tmp_path, [base, base + " more", "x y z u v w"])
    assert decided["00000"]["kept_id"] == "00001"
    assert decided["00000"]["cluster_id"] == decided["00001"]["cluster_id"] == "00001"
    assert decided["00002"]["cluster_id"] is None


def test_survivors_do_not_depend_on_the_order_of_documents(tmp_path):
    texts = [str(row["text"]) for row in corpora.records(40)]
    ids = [f"id{n}" for n in range(len(texts))]
    found = []
    for order in (1, -1):
        rows = [{"id": i, "text": t} for i, t in zip(ids, texts, strict=True)][::order]
        data = corpora.write_lines(tmp_path / "a.jsonl", rows)
        curate(data, tmp_path / "out", "minhash", overwrite=True)
        decided = corpora.decisions(tmp_path / "out")
        found.append({name: (r["kept_id"], r["cluster_id"]) for name, r in decided.items()})
    assert found[0] == found[1]


def test_case_punctuation_and_space_do_not_count(tmp_path):
    base = " ".join(f"word{n}" for n in range(60))
    decided, _ = run(tmp_path, [base, base.upper().replace(" ", ",\n ")])
    assert sum(row["is_kept"] for row in decided.values()) == 1
    assert decided["00000"]["jaccard"] == 1.0


def test_punctuation_of_the_kept_text_stays(tmp_path):
    text = "好。" * 3 + "，全角！（标点）" * 5
    run(tmp_path, [text], preset="map-cc")
    assert corpora.kept(tmp_path / "out")[0]["text"] == text


def test_state_stays_below_224_bytes_a_document(tmp_path):
    texts = [str(row["text"]) for row in corpora.records(200)]
    _, result = run(tmp_path, texts, preset="fineweb")
    headers = (14 + 7) * 128 / len(texts)  # of numpy's files; a few units of 16 MB have few
    assert result.measurement("state_bytes_per_document").value < 224 + headers


def test_comparing_in_small_groups_gives_the_same(tmp_path, monkeypatch):
    from treadle.text.curate import similarity as module

    texts = [str(row["text"]) for row in corpora.records(60)]
    whole, _ = run(tmp_path, texts)
    monkeypatch.setattr(module, "_TEXT_BYTES", 1000)
    assert run(tmp_path, texts)[0] == whole


def test_other_seed_finds_the_same_clear_copies(tmp_path):
    texts = [str(row["text"]) for row in corpora.records(60)]
    one, other = (run(tmp_path, texts, seed=seed)[0] for seed in (0, 1))
    copies = [{n for n, row in d.items() if (row["jaccard"] or 0) > 0.95} for d in (one, other)]
    assert copies[0]
    assert copies[0] == copies[1]


def test_settings_are_refused_out_of_bounds():
    from treadle.core.errors import SettingsError

    with pytest.raises(SettingsError, match="threshold"):
        METHODS.resolve({"method": "minhash", "threshold": 1.5})
    with pytest.raises(SettingsError, match="keep"):
        METHODS.resolve({"method": "minhash", "keep": "newest"})
