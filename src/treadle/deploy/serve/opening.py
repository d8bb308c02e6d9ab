"""The models, adapters and routers that a server is started with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from treadle.core.checkpoint import require_understood
from treadle.core.checkpoint.described import says_bundle
from treadle.core.checkpoint.layered import DENSE, read_layer_routing, says_layers
from treadle.core.checkpoint.routed import EXPERTS, read_routing
from treadle.core.errors import SettingsError
from treadle.deploy.serve.catalogue import AUTO, ServedModel, ServedRouter, dense_name
from treadle.deploy.serve.settings import ServeEngineSettings
from treadle.runtime import LLM
from treadle.runtime.routed.layers import LayeredLLM
from treadle.runtime.routed.queries import QueryRouter, load_router
from treadle.runtime.routed.queries.scorers import CascadeScores
from treadle.runtime.routed.router import load_router as bundle_router

__all__ = ["Opened", "open_all"]


class Opened(NamedTuple):
    """What clients may ask for."""

    models: list[ServedModel]
    routers: list[ServedRouter]

    @property
    def names(self) -> list[str]:
        """All names, as people are told them."""
        return [model.name for model in self.models] + [router.name for router in self.routers]


class _First:
    """Chooses for a cascade, which begins with its first model whatever is asked."""

    def choose(self, texts: Sequence[str]) -> list[int]:
        """Return the place of the first model for each text."""
        return [0] * len(texts)


def open_all(
    models: Sequence[str],
    adapters: Sequence[str],
    settings: ServeEngineSettings,
    routers: Sequence[str] = (),
) -> Opened:
    """Load what the settings of a server name; of a bundle each model, and its router.

    Args:
        models: MODEL or NAME=MODEL.
        adapters: NAME=FOLDER or MODEL/NAME=FOLDER.
        settings: Of each model's engine.
        routers: FOLDER, which is called auto, or NAME=FOLDER.

    Raises:
        SettingsError: A name stands twice, or a router's models are not served.
        CheckpointError: A model cannot be read, or a bundle lacks one.
    """
    given = _pairs("model", models)
    bundles = {name: Path(source) for name, source in given.items() if _is_bundle(source)}
    for folder in bundles.values():
        require_understood(folder)
    sources = _sources(given, bundles)
    layered = {name: folder for name, folder in bundles.items() if says_layers(folder)}
    whole = {name: folder for name, folder in bundles.items() if name not in layered}
    choosers = {name: bundle_router(folder) for name, folder in whole.items()}
    apart = _opened_routers(routers, [*sources, *bundles])
    served = _load({name: source for name, source in sources.items() if source}, adapters, settings)
    mixing = [_mixing(name, LayeredLLM(layered[name], settings=settings)) for name in layered]
    served += [model for router in mixing for model in router.models]
    known = {model.name: model for model in served}
    found = [
        ServedRouter(name, name, chooser, [known[own] for own in _experts(whole[name])])
        for name, chooser in choosers.items()
    ]
    found += mixing
    found += [_served(name, folder, router, known) for name, (folder, router) in apart.items()]
    if len(found) == 1 and AUTO not in {*known, *bundles, *apart}:
        (only,) = found
        found.append(ServedRouter(AUTO, only.name, only.chooser, only.models, only.thresholds))
    return Opened(served, found)


def _opened_routers(
    given: Sequence[str], taken: Sequence[str]
) -> dict[str, tuple[str, QueryRouter]]:
    """Return the routers of a server by their names, before the models take their time to load."""
    found: dict[str, tuple[str, QueryRouter]] = {}
    for entry in given:
        name, sign, folder = entry.partition("=")
        if not sign or Path(entry).exists():
            name, folder = AUTO, entry
        if not name or not folder:
            raise SettingsError(f"Found router '{entry}', expected NAME=FOLDER; give both.")
        if name in (*found, *taken):
            raise SettingsError(
                f"The router '{entry}' is called '{name}' for clients, and so is another router or "
                f"model; give one another name with NAME=FOLDER."
            )
        found[name] = (folder, load_router(Path(folder)))
    return found


def _served(
    name: str, folder: str, router: QueryRouter, known: Mapping[str, ServedModel]
) -> ServedRouter:
    """Return a router among the models that it was made for.

    Raises:
        SettingsError: Some of them are not served.
    """
    scorer = router.scorer
    turns = scorer.turns if isinstance(scorer, CascadeScores) else range(len(router.models))
    names = [router.models[place] for place in turns]
    missing = [one for one in names if one not in known]
    if missing:
        raise SettingsError(
            f"The router '{folder}' chooses among {', '.join(names)}, but this server has "
            f"no {', '.join(missing)}; its models are {', '.join(known)}. Serve those that are "
            f"missing (NAME=MODEL gives a model its name), or train a router for these."
        )
    models = [known[one] for one in names]
    if not isinstance(scorer, CascadeScores):
        return ServedRouter(name, folder, router, models)
    thresholds = [float(scorer.thresholds[place]) for place in turns[:-1]]
    return ServedRouter(name, folder, _First(), models, thresholds)


def _is_bundle(source: str) -> bool:
    return Path(source).is_dir() and says_bundle(Path(source))


def _experts(bundle: Path) -> tuple[str, ...]:
    routing = read_layer_routing(bundle) if says_layers(bundle) else read_routing(bundle)
    return routing.experts


def _mixing(name: str, llm: LayeredLLM) -> ServedRouter:
    """Return a bundle of layers as what answers by a mixture of its experts.

    Its experts are models of their own beside it, and so is the model beside them, which answers
    all where there is no router.
    """
    models = [ServedModel(expert, llm, expert, name) for expert in llm.experts]
    dense = ServedModel(dense_name(name), llm, DENSE, name)
    return ServedRouter(name, name, llm, [*models, dense])


def _sources(given: Mapping[str, str], bundles: Mapping[str, Path]) -> dict[str, str]:
    """Return name -> source of all models; empty of those that a bundle's one model holds."""
    found = {name: source for name, source in given.items() if name not in bundles}
    for bundle, folder in bundles.items():
        is_layered = says_layers(folder)
        for name in _experts(folder):
            if name in found or name in bundles:
                raise SettingsError(
                    f"The bundle '{bundle}' has a model '{name}', and another one of that name is "
                    f"to be served; give the other one a name of its own with NAME=MODEL."
                )
            found[name] = "" if is_layered else str(folder / EXPERTS / name)
    return found


def _pairs(what: str, given: Sequence[str]) -> dict[str, str]:
    """Return name -> source of what is written NAME=SOURCE, or for models just SOURCE."""
    found: dict[str, str] = {}
    for entry in given:
        name, sign, source = entry.partition("=")
        if not sign or Path(entry).exists():
            name, source = Path(entry).resolve().name if Path(entry).exists() else entry, entry
        if not name or not source or (what == "adapter" and not sign):
            raise SettingsError(f"Found {what} '{entry}', expected NAME=FOLDER; give both.")
        if name in found:
            raise SettingsError(
                f"Two of the {what}s are called '{name}'; give one another name with NAME=FOLDER."
            )
        found[name] = source
    return found


def _load(
    sources: dict[str, str],
    adapters: Sequence[str],
    settings: ServeEngineSettings,
) -> list[ServedModel]:
    """Load the models and their adapters."""
    first = _first_names(sources)
    beside = _beside(_pairs("adapter", adapters), first, list(sources))
    llms = {
        name: LLM(sources[name], adapters=beside[name], settings=settings)
        for name in dict.fromkeys(first.values())
    }
    served = []
    for name in sources:
        llm = llms[first[name]]
        served.append(ServedModel(name, llm, root=first[name]))
        if first[name] == name:
            served += [ServedModel(own, llm, own, name) for own in beside[name]]
    return served


def _first_names(sources: Mapping[str, str]) -> dict[str, str]:
    """Return each name -> the first name of the same model, whose weights are loaded once."""
    found: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, source in sources.items():
        path = Path(source)
        found[name] = names.setdefault(str(path.resolve()) if path.exists() else source, name)
    return found


def _beside(
    adapters: Mapping[str, str], first: Mapping[str, str], models: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return for each loaded model, by its first name, the adapters that are loaded beside it."""
    loaded = list(dict.fromkeys(first.values()))
    found: dict[str, dict[str, str]] = {model: {} for model in loaded}
    for name, folder in adapters.items():
        model, sign, own = name.rpartition("/")
        if not sign and len(loaded) == 1:
            model, own = loaded[0], name
        if model not in first:
            raise SettingsError(
                f"Found adapter '{name}' beside the models {', '.join(models)}; write "
                f"MODEL/NAME=FOLDER with one of them."
            )
        taken = {*models, *(other for names in found.values() for other in names)}
        if not own or own in taken:
            raise SettingsError(
                f"The adapter name '{own}' is empty or in use; clients ask for it as for a model: "
                f"choose another."
            )
        found[first[model]][own] = folder
    return found
