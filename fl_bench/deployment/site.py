"""What a site does: it obeys the driver's messages, on its own rows and in its own folder.

A message that the driver has not signed, that is of another conversation or that was obeyed before is refused. What a
run's config may have built here is what `trust.py` allows, and what the site itself trusts. Nothing that a message
names is opened: the site gives a run its data, and a folder of its own root.
"""

import json
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict
from omegaconf import DictConfig, OmegaConf

from fl_bench.config import trust
from fl_bench.config.paths import INIT
from fl_bench.config.rules import MASKS, validate
from fl_bench.config.schema import Config
from fl_bench.deployment import masks
from fl_bench.deployment.keys import SiteKeys
from fl_bench.deployment.shares import Held, Holding
from fl_bench.deployment.signing import CONTENT, Unproven, expect, seal, unseal
from fl_bench.deployment.welcome import Welcome
from fl_bench.errors import ConfigError, Damaged, FlBenchError, in_one_line, note
from fl_bench.federation.client import app
from fl_bench.federation.exchange import RECORD, Job, Trouble
from fl_bench.federation.local import trainer_in
from fl_bench.federation.masked import WEIGH
from fl_bench.federation.parts import CONFIG
from fl_bench.ledger.statements import signed
from fl_bench.masking.party import Unsafe
from fl_bench.privacy.base import Noise
from fl_bench.storage.buffers import contents
from fl_bench.storage.run_json import check_config
from fl_bench.storage.states import ClientStates

GREETING, WORK, SETTLE = "greeting", "work", "settle"  # kinds of messages, and names of their records
WELCOME, ANSWER = "welcome", "answer"  # kinds of replies
KEPT = "kept"  # the record of which states the server still needs
RUN = re.compile(r"[0-9a-f]{32}")  # by which a site knows a run again: the name of its folder
# What only the server builds is taken out. A task's yaml may have model: ${model}.
SERVERS = (
    "strategy.server",
    "strategy.schedule",
    "partition",
    "shift",
    "network",
    "tracker",
    "engine._target_",
    "data",
)
OPENED, INITS = ("model.path", "task.model.path"), ("model.init", "task.model.init")


@dataclass
class Session:
    """A conversation with the driver about one run."""

    token: str
    folder: Path  # of the config, and links to the data
    obeyed: set[int] = field(default_factory=set)  # the numbers of its messages


class Unknown(Exception):
    """A message of a conversation that this site does not know: it has begun anew."""


class Site:
    """A site of this name, with prepared data, and a root that is all that it writes to.

    With `only` no other clients of the data take part. Raises ConfigError where it does not have these.
    """

    def __init__(
        self,
        name: str,
        keys: SiteKeys,
        data: Path,
        root: Path,
        trusted: Collection[str] = (),
        only_masked: bool = False,
        only: Collection[int] | None = None,
    ) -> None:
        self.name = name
        whose = next((peer for peer, key in keys.peers.items() if key == keys.key.public_key()), name)
        if whose != name:
            raise ConfigError(f"--name {name}: the keys in --certs are those of {whose}")
        self._keys = keys
        self._data = data.absolute()
        self._only = only
        self._root = root
        self._trusted = trusted
        self._only_masked = only_masked
        self.clients = self._holdings()
        self.sessions: dict[int, Session] = {}  # by the number of a run at the link

    def answer(self, message: Message) -> Message:
        """Do what a message says, or say why not."""
        try:
            content, kind, facts = self._obeyed(message)
            return self._reply(message, kind, content, facts)
        except Unknown:
            code, why = Trouble.UNKNOWN, "it has begun anew"
        except (Unproven, Unsafe, FlBenchError) as error:
            code, why = Trouble.REFUSED, f"refuses: {error}"
        except OSError as error:
            code, why = Trouble.DISK, f"cannot use {error.filename or self._root}: {error.strerror}"
        except Exception as error:
            code, why = Trouble.WORKER_FAILED, f"failed: {in_one_line(error)}"
        if code != Trouble.UNKNOWN:
            note(f"{self.name}: run {message.metadata.run_id}: {why}")
        return Message(Error(code, why), reply_to=message)

    def _holdings(self) -> dict[int, Holding]:
        """By client that takes part: what it holds now."""
        held, only = Held.open(self._data).holdings(), self._only
        if only is not None and (strange := [client for client in only if client not in held]):
            has = ", ".join(map(str, held))
            raise ConfigError(f"--clients {strange[0]}: holds no rows in {self._data}; those who do: {has}")
        return {client: held[client] for client in held if only is None or client in only}

    def _obeyed(self, message: Message) -> tuple[RecordDict, str, Mapping[str, Any]]:
        """The content of a message that is to be obeyed, its kind, and the facts that an answer bears."""
        content, facts = unseal(message.content, self._keys.driver)
        run, kind = message.metadata.run_id, facts.get("kind")
        expect(facts, site=self.name, run=run, type=message.metadata.message_type)
        if kind != GREETING:
            session = self.sessions.get(run)
            if session is None or facts.get("session") != session.token:
                raise Unknown
            if facts.get("number") in session.obeyed:
                raise Unproven("this message was obeyed before")
            session.obeyed.add(facts["number"])
        return content, str(kind), {name: facts[name] for name in ("run", "site", "session", "number", CONTENT)}

    def _reply(self, message: Message, kind: str, content: RecordDict, facts: Mapping[str, Any]) -> Message:
        if kind == GREETING:
            welcome = self._greeted(message.metadata.run_id, content)
            made = RecordDict({WELCOME: ConfigRecord({WELCOME: welcome.to_json()})})
            return Message(seal(made, self._keys.key, {**facts, "kind": WELCOME}), reply_to=message)
        session = self.sessions[message.metadata.run_id]
        states = self._settled(content, session.folder / "aside")
        if kind == WORK:
            message.content = content
            content = RecordDict({name: record for name, record in content.items() if name not in (KEPT, RECORD)})
            job = Job.of(message)
            if strange := [client for client in job.clients if client not in self.clients]:
                raise Unproven(f"client {strange[0]} is not of this site")
            self._refuse_open(job.masks is not None)
            own = self._as_party(job, facts[CONTENT], states.parent) if job.masks is not None else None
            message.content = job.beside(content, folder=str(session.folder), states=str(states), masks=own)
            reply = app(message, Context(message.metadata.run_id, 0, {}, RecordDict(), {}))
            if reply.has_error():
                return reply
            if job.signed and message.metadata.message_type == MessageType.TRAIN:
                reply = signed(reply, message, trainer_in(session.folder).layout, self._keys.key)
            made = reply.content if own is None else masks.signed(reply, own, self.name, self._keys, message).content
        else:
            made = RecordDict()
            del self.sessions[message.metadata.run_id]
            self._forget()
            note(f"{self.name}: run {message.metadata.run_id}: has ended")
        return Message(seal(made, self._keys.key, {**facts, "kind": ANSWER}), reply_to=message)

    def _refuse_open(self, masked: bool) -> None:
        """Raise ConfigError where this site would say what it says in masked sums only."""
        if self._only_masked and not masked:
            raise ConfigError("secure_aggregation=none: this site says nothing but in masked sums (--only-masked)")

    def _as_party(self, job: Job, asked: str, folder: Path) -> dict[str, Any]:
        """What a job asks of this site in a masked sum, with its secret. Raises Unproven where that says too much."""
        assert job.masks is not None
        training = {client for client, held in self.clients.items() if held.train}
        if job.masks["ask"] == WEIGH and set(job.clients) != training:
            raise Unproven("it asks what only some of the clients here weigh")
        return masks.allowed(job, asked, self.name, self._keys, folder)

    def _greeted(self, run: int, content: RecordDict) -> Welcome:
        """Begin a conversation about a run with this config."""
        greeting = content.config_records[GREETING]
        cfg = self._allowed(str(greeting["config"]))
        self._refuse_open(cfg.secure_aggregation == MASKS)
        self.sessions.pop(run, None)
        self._forget()
        token = secrets.token_hex(16)
        folder = self._work / token
        folder.mkdir(parents=True)
        for path in self._data.iterdir():
            (folder / path.name).symlink_to(path)
        OmegaConf.save(cfg, folder / CONFIG)
        if INIT in content.array_records:
            (folder / INIT).write_bytes(contents(content.array_records[INIT][INIT]).tobytes())
        self.clients = self._holdings()  # rows may have changed since the last run
        trainer = trainer_in(folder)
        if cfg.secure_aggregation == MASKS and isinstance(trainer.privacy, Noise):
            why = "its noise is new whenever a turn is repeated, and the same masks would show the difference"
            raise ConfigError(f"privacy={trainer.privacy.level}: {why}; use secure_aggregation=none")
        welcome = Welcome.of(trainer, self.clients, token)
        self.sessions[run] = Session(token, folder)
        how = f"secure_aggregation={cfg.secure_aggregation}, privacy={trainer.privacy.level}"
        note(f"{self.name}: run {run}: {cfg.num_rounds} rounds, {how}")
        return welcome

    def _forget(self) -> None:
        """Remove the folders of conversations that are over, also of an earlier process."""
        known = {session.folder for session in self.sessions.values()}
        for folder in self._work.glob("*"):
            if folder not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def _allowed(self, text: str) -> DictConfig:
        """The config of a run as it is built here. Raises ConfigError where it would build what nobody here trusts."""
        try:
            config: Any = yaml.safe_load(text)
            check_config(Path(GREETING), config)
            cfg = OmegaConf.merge(OmegaConf.structured(Config), config)
        except (yaml.YAMLError, ValueError, Damaged) as error:
            raise ConfigError(f"the config of the run cannot be read: {error}") from error
        assert isinstance(cfg, DictConfig)
        validate(cfg)
        built: Any = OmegaConf.create(OmegaConf.to_container(cfg))
        for key in SERVERS:
            OmegaConf.update(built, key, None)
        del built.engine[trust.TARGET]
        plain: Any = OmegaConf.to_container(built)
        for key, name in trust.strange(plain):
            if not any(f"{name}.".startswith(f"{module}.") for module in self._trusted):
                module = trust.module_of(name)
                raise ConfigError(f"{key}.{trust.TARGET}={name}: this site would need --trust {module}")
        for key in OPENED:
            if (value := OmegaConf.select(built, key)) is not None:
                raise ConfigError(f"{key}={value}: a site makes no model from a path or a hub's name that it is sent")
        for key in INITS:
            if OmegaConf.select(built, key) is not None:
                OmegaConf.update(built, key, INIT)  # what was sent along
        return built  # type: ignore[no-any-return]

    def _settled(self, content: RecordDict, aside: Path) -> Path:
        """The folder of the states of this run's clients, of which those are left that the server needs.

        Where it only looks at a turn, they all stay as they are, and the turn has copies, in the folder `aside`.
        """
        kept = json.loads(str(content.config_records[KEPT][KEPT]))
        if not RUN.fullmatch(kept["folder"]):
            raise Unproven("it names no run")
        states = ClientStates(self._root / "runs" / kept["folder"] / "state")
        needed = {int(client): rounds for client, rounds in kept["rounds"].items()}
        if kept.get("aside"):
            shutil.rmtree(aside, ignore_errors=True)
            return states.copied(needed, aside).folder
        for client, rounds in needed.items():
            states.keep(client, rounds)
        return states.folder

    @property
    def _work(self) -> Path:
        return self._root / "work"
