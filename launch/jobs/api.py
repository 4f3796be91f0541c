"""A target renders a run for one scheduler: from a checked configuration to files by name. It writes and starts nothing.

    recipe, overrides, --set  ->  LaunchJob  --Target.render-->  Rendered { files, commands, notes }  ->  disk or stdout

A run has components: `buffer`, `learner`, and for each kind of actors one that is named like its pool, or `actors` in a run
without pools. Schedulers place components; each is one `prolong` command, with the run's configuration and its own keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ...common.config.actors import kinds_of_actors
from ...common.config.sections import Config
from ...common.errors import UserError
from ..placement import gpus_of_actor

BUFFER, LEARNER, ACTORS = "buffer", "learner", "actors"  # names of components
CONFIG = "config.yaml"  # the file of every Rendered that holds the run's configuration
KEYS = "keys"  # the folder of the run's keys, beside CONFIG
SECRET = 0o600  # mode of a file that holds a secret
# where components have hosts, and so ports, to themselves: of the buffer, and of the learner's first node
PORT, RENDEZVOUS_PORT = 5710, 29500


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorKind:
    """The actors of one pool, or of a run without pools."""

    component: str
    pool: str  # "": none
    cfg: Config  # with the pool's settings
    count: int  # actors to start; 0: others join later
    gpus: int  # of each actor; 0: it computes on CPUs


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchJob:
    """What is to be launched."""

    cfg: Config
    folder: Path  # where the files will lie; absolute
    nodes: int = 1  # of the learner; `launch.learner_ranks` ranks on each
    # component -> key -> value of --set, those for all components under ""; a target says which keys it knows
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # file name below KEYS -> text: server.key, server.pub, client.key, allowed/NAME.pub, hosts/NAME/client.key, where NAME is a
    # component (common/transport/keys.py)
    keys: Mapping[str, str] = field(default_factory=dict)

    def setting(self, component: str, key: str, default: str = "") -> str:
        """The value of --set for this component, or else that for all of them."""
        return self.settings_of(component).get(key, default)

    def settings_of(self, component: str) -> dict[str, str]:
        return {**self.settings.get("", {}), **self.settings.get(component, {})}

    def named_settings(self, component: str, beginning: str) -> dict[str, str]:
        """Those of a component whose key has this beginning, by the rest of the key."""
        given = self.settings_of(component).items()
        return {key.removeprefix(beginning): value for key, value in given if key.startswith(beginning)}

    def check_settings(
        self, scheduler: str, known: tuple[str, ...], beginnings: tuple[str, ...], only: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Raise UserError for a key that is neither known nor one of these beginnings and a name, or not this component's.

        only: for keys that do not say something about every component, those that may have one of their own.
        """
        for component, settings in self.settings.items():
            for key in settings:
                given = f"{component}:{key}" if component else key
                if key not in known and not any(key.startswith(each) and key != each for each in beginnings):
                    expected = ", ".join([*known, *(f"{each}NAME" for each in beginnings)])
                    raise UserError(f"--set {given}: {scheduler} has no such setting; expected one of {expected}")
                if component and component not in only.get(key, (component,)):
                    expected = " or ".join([key, *(f"{each}:{key}" for each in only[key])])
                    raise UserError(f"--set {given}: {scheduler} has no such setting of {component}; expected {expected}")

    def keys_of(self, component: str) -> dict[str, str]:
        """The files of `buffer.keys` on the component's host: of the buffer all but those of other hosts."""
        below = "" if component == BUFFER else f"hosts/{component}/"
        files = {name.removeprefix(below): text for name, text in self.keys.items() if name.startswith(below)}
        return {name: text for name, text in files.items() if not name.startswith("hosts/")}


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedFile:
    text: str
    mode: int = 0o644

    @property
    def secret(self) -> bool:
        """Whether only its owner may read it; `--dry-run` does not print it then."""
        return not self.mode & 0o077


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """The files of a launch by their names in the folder, the commands that start it, and what the user ought to know."""

    files: dict[str, RenderedFile]
    commands: list[list[str]]  # in this order; run by --submit, else printed
    notes: list[str] = field(default_factory=list)


class Target(Protocol):
    """A scheduler.

    Example: `Slurm().render(LaunchJob(cfg=cfg, folder=Path("/shared/launch"))).files["job.sbatch"].text`
    """

    def render(self, job: LaunchJob) -> Rendered:
        """The files for this job. The caller writes KEYS, and the CONFIG of `job.cfg` where it is not among the files.

        Pure: the same job gives the same text. Raises: UserError for a setting or a run that the scheduler cannot take.
        """
        ...


def actor_kinds(cfg: Config) -> list[ActorKind]:
    """The kinds of actors of the run. Raises: UserError for a pool that is called like another component."""
    kinds = []
    for pool, kind in kinds_of_actors(cfg).items():
        if pool in (BUFFER, LEARNER, ACTORS):
            raise UserError(f"pools.{pool}: `prolong launch` has a component of that name; give the pool another name")
        count, gpus = kind.launch.actors, gpus_of_actor(kind)
        kinds.append(ActorKind(component=pool or ACTORS, pool=pool, cfg=kind, count=count, gpus=gpus))
    return kinds


def has_own_host(cfg: Config, pool: str) -> bool:
    """Whether the recipe says at which addresses the actors of a pool take weights, which is then left alone."""
    return bool(pool) and "host" in cfg.pools[pool].weights


def component_names(cfg: Config) -> list[str]:
    """The names of all components."""
    return [BUFFER, LEARNER, *(kind.component for kind in actor_kinds(cfg))]


def gpus_of_node(cfg: Config) -> int:
    """GPUs of each node of the learner; 0 where it computes on CPUs."""
    return cfg.launch.learner_ranks if gpus_of_actor(cfg) else 0
