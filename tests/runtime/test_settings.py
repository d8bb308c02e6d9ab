"""An engine's settings: one object, keywords of `LLM`, flags of `serve`."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from treadle.core.errors import SettingsError
from treadle.deploy.serve.settings import ServeEngineSettings
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.admit.methods.prefix import Prefix
from treadle.runtime.evict.methods.sinks import Sinks
from treadle.runtime.settings import EngineSettings
from treadle.runtime.tables import TABLES
from treadle.runtime.transformers_step.generic import GenericExecutor
from treadle.verbs import VERBS


@pytest.fixture(scope="module")
def executor(llama):
    return GenericExecutor.from_folder(llama)


def test_keywords_and_the_object_are_the_same(llama, executor):
    settings = EngineSettings(cache_bytes=2**18, max_num_seqs=3, policy="prefix", page_size=8)
    one = LLM(llama, executor=executor, settings=settings)
    other = LLM(
        llama, executor=executor, cache_bytes=2**18, max_num_seqs=3, policy="prefix", page_size=8
    )
    for engine in (one, other):
        assert engine._batch.limits.max_num_seqs == 3
        assert engine._batch.pool.page_size == 8
        assert isinstance(engine._batch.policy.policy, Prefix)
    assert one.load_report() == other.load_report()
    both = LLM(llama, executor=executor, settings=settings, page_size=4)
    assert (both._batch.pool.page_size, both._batch.limits.max_num_seqs) == (4, 3)


def test_policies_come_as_names_settings_and_objects(llama, executor):
    settings = {"executor": executor, "cache_bytes": 2**18, "keep_budget": 20}
    mapping = {"method": "sinks", "sinks": 2}
    for keep in (mapping, Sinks(sinks=2)):
        assert LLM(llama, keep=keep, **settings)._policies.of(SamplingParams()).method == Sinks(
            sinks=2
        )
    aged = {"method": "prefix", "ageing_seconds": 3.0}
    for policy in (aged, Prefix(ageing_seconds=3.0)):
        engine = LLM(llama, executor=executor, cache_bytes=2**18, policy=policy)
        assert engine._batch.policy.policy == Prefix(ageing_seconds=3.0)
    engine = LLM(llama, executor=executor, cache_bytes=2**18, policy="prefix", ageing_seconds=4)
    assert engine._batch.policy.policy == Prefix(ageing_seconds=4.0)


def test_they_are_frozen_and_take_numbers_of_numpy():
    given = {"max_num_seqs": np.int64(3), "keep": "sinks", "keep_budget": np.float32(0.5)}
    settings = EngineSettings().changed(given)
    assert (settings.max_num_seqs, settings.keep_budget) == (3, 0.5)
    assert type(settings.max_num_seqs) is int
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 4
    assert EngineSettings().changed({"cache_bytes": "2MiB"}).cache_bytes == 2**21
    with pytest.raises(SettingsError, match=r"No setting 'cash_bytes'.*Did you mean 'cache_bytes'"):
        settings.changed({"cash_bytes": 1})


def test_help_shows_every_setting():
    shown = inspect.signature(LLM).parameters
    assert shown["max_num_batched_tokens"].default == 256
    for name, field in EngineSettings.model_fields.items():
        assert field.description, f"{name} has no help"
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"    {name}: " in LLM.__init__.__doc__
    assert "fields" not in shown
    assert "Raises:" in LLM.__init__.__doc__


def test_a_server_has_a_flag_for_each_and_its_own_defaults():
    flags = VERBS["serve"].parameters()
    assert set(EngineSettings.model_fields) <= set(flags)
    own = {n: f.default for n, f in ServeEngineSettings.model_fields.items()}
    differing = {n for n, f in EngineSettings.model_fields.items() if f.default != own[n]}
    assert differing == {"policy", "max_num_seqs", "max_num_batched_tokens"}
    assert (flags["policy"].default, flags["max_num_seqs"].default) == ("fair_priority", 16)


def test_the_settings_need_no_torch():
    script = (
        "import sys, treadle.runtime.tables\n"
        "from treadle.deploy.serve.settings import ServeEngineSettings\n"
        "ServeEngineSettings(keep='sinks', keep_budget=9)\n"
        "sys.exit(str({'torch', 'transformers'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("folder", list(TABLES))
def test_tables_name_their_methods(folder):
    """As `test_architecture` has it of the families."""
    for name, target in TABLES[folder].table.items():
        method = TABLES[folder][name]
        assert method.name == name
        assert target.startswith(f"treadle.runtime.{folder}.methods.{name}:")
        assert method.summary().endswith(".")


def test_a_limit_of_the_process_is_named(llama):
    """The machine has the memory, and the process may not take it."""
    program = (
        "import resource\n"
        "from treadle.runtime.executor import ModelShape\n"
        "from treadle.runtime.store import make_store\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        "shape = ModelShape((8,) * 32, 128, 9, 9, 9, (None,) * 32)\n"
        "make_store(shape, 3 << 30, 16, 'fp16', 1, 'cpu')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if "more than the" in done.stderr:
        pytest.skip("the machine itself has no 3 GB")
    assert "CapacityError: The system refuses 3221225472 bytes" in done.stderr
    assert "lower cache_bytes" in done.stderr
