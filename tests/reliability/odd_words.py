"""Command lines of every kind that somebody might type, each made from its number: `words_of`."""

import functools
import random
from collections.abc import Callable

import torch

from fl_bench.config.compose import GROUPS, options
from fl_bench.config.explain import known_keys

BASE = ("engine=inline", "num_rounds=2", "num_clients=3", "local.steps=1", "figures=false", "data=synthetic",
        "data.num_samples=40")  # fmt: skip
VALUES = [
    "", "0", "-1", "1", "2", "nan", "inf", "-inf", "1e400", "1e-400", "-0.0", "99999999999999999999", "2147483648",
    "9223372036854775808", "-9223372036854775809", "null", "None", "~", "true", "false", "yes", "[]", "{}", "[1,2]",
    "[nan]", "[1,[2,[3]]]", "{a:1}", "{a:{b:[c]}}", "{_target_:os.system}", "''", '""', "'a b'", '"a,b"', "a b",
    "ä", "日本", "🙂", "a'b", 'a"b', "a\\b", "\\", "'", '"', "a\nb", "\t", "\x1b[31m", "\x00", "${seed}", "${nope}",
    "${oc.env:HOME}", "${oc.env:NOPE}", "${now:%Y}", "${", "$", "${..x}", "${seed", "a=b", "=", "==", "a,b", ",",
    "1,", ",1", "(", ")", "[", "]", "{", "}", "*", "?", "#", "%", "@", "&", "|", ";", "!", "`id`", "$(id)",
    "../../etc/passwd", "/dev/null", "/dev/zero", "/proc/self/mem", "~/x", "file://x", "http://x", "0x10", "1_000",
    "1e3", ".5", "5.", "01", "+1", "--1", "1" * 400, "x" * 5000, "[" * 60 + "]" * 60, "choice(1,2)", "range(3)",
    "range(0)", "glob(*)", "interval(0,1)", "sort(2,1)", "shuffle(1,2)", "tag(a,1)", "int(2.5)", "str(1)",
    "float(x)", "json_str(1)", "extend_list(1)", "foo(1)", "fedprox", "sam", "fl_bench.build.build", "os.system",
    "builtins.exec", "torch.nn.Linear", "fl_bench", ".", "..", "a.b.c", "a..b",
]  # fmt: skip
HYDRA = [
    "hydra.run.dir=../canary", "hydra.run.dir=.", "hydra.run.dir=", "hydra.run.dir=/dev/null",
    "hydra.run.dir=/proc/x", "hydra.run.dir=run", "hydra.run.dir=new", "hydra.run.dir='a b/ü'",
    "hydra.run.dir=null", "hydra.run.dir=3", "hydra.run.dir=../canary/notes.txt", "hydra.run.dir=${nope}",
    "hydra.run.dir=[1]", "hydra.sweep.dir=../canary", "hydra.sweep.subdir=.", "hydra.sweep.subdir=..",
    "hydra.output_subdir=x", "hydra.job.chdir=true", "hydra.job.name=ü", "hydra.verbose=true",
    "hydra.mode=MULTIRUN", "hydra.mode=x", "hydra.nope=1", "hydra=null", "hydra.launcher=null",
    "hydra/launcher=nope", "hydra/launcher=basic", "hydra/sweeper=nope", "hydra.searchpath=[nope]",
    "hydra.searchpath=x", "hydra.job.env_set={A:1}", "hydra.callbacks={a:1}", "hydra/job_logging=default",
    "hydra.runtime.output_dir=/", "~hydra", "hydra.job.num=x", "hydra.sweep.dir=null", "hydra.job_logging=3",
]  # fmt: skip
FLAGS = [
    ["--cfg", "job"], ["--cfg", "all"], ["--cfg", "nope"], ["--cfg"], ["--cfg", "job", "--resolve"], ["--resolve"],
    ["--cfg", "job", "--package", "strategy"], ["--cfg", "job", "-p", "nope"], ["--info"], ["--info", "nope"],
    ["--info", "searchpath"], ["--multirun"], ["--run"], ["--run", "-m"], ["--config-name", "foo"],
    ["-cn", "config"], ["--config-path", "nope"], ["--config-dir"], ["--config-dir", "nope"],
    ["--config-dir", "notes.txt"], ["--experimental-rerun", "x"], ["--nope"], ["-x"], ["--"], ["-"], ["--version"],
    ["-h"], ["--help"], ["--hydra-help"], ["--shell-completion"], ["-sc", "install=bash"], ["--trust", "x"],
    ["--cfg", "job", "-m"],
]  # fmt: skip
YAMLS = {
    "tab": b"# x\nserver:\n\t_target_: x\n", "binary": bytes(range(256)), "latin": b"# x\na: \xe9\n", "empty": b"",
    "list": b"- 1\n- 2\n", "text": b"hello", "null": b"null", "number": b"3", "loop": b"a: &a [*a]\n",
    "twice": b"a: 1\na: 2\n", "open": b"a: [1, 2\n", "brace": b"a: {b: 1\n", "quote": b"a: 'x\n",
    "colon": b"a: b: c\n", "deep": b"a: " + b"[" * 3000, "target3": b"server: {_target_: 3}\n",
    "target_nowhere": b"server: {_target_: no.where.X}\n", "noserver": b"client: {}\n",
    "servernull": b"server: null\n", "serverlist": b"server: [1]\n", "defaults": b"defaults: 3\n",
    "default2": b"defaults:\n  - nope\n", "self": b"defaults:\n  - self\n",
    "package": b"# @package nope..x\na: 1\n", "global": b"# @package _global_\nnope: 1\n",
    "seed": b"# @package _global_\nseed: x\n", "interpolation": b"server: ${nope}\n",
    "extra": b"server: {_target_: flwr.serverapp.strategy.FedAvg, nope: 1}\n",
    "check": b"server: {_target_: flwr.serverapp.strategy.FedAvg}\ncheck: 3\n", "keys": b"1: 2\nnull: 3\ntrue: 4\n",
    "bom": b"\xef\xbb\xbfa: 1\n", "merge": b"a: &x {b: 1}\nc: {<<: *x}\n",
    "tag": b"a: !!python/object/apply:os.system [id]\n", "date": b"a: 2020-01-01\n",
    "huge": b"a: 1" + b"0" * 5000 + b"\n", "two": b"a: 1\n---\nb: 2\n", "nul": b"a: \x00\n",
    "module": b"client: {_target_: antigravity_nope.X}\n",
}  # fmt: skip
HEAVY = ("mlflow", "tensorboard", "wandb")  # to import, for ten seconds and more
VERBS = ["run", "list", "check", "resume", "verify", "rerun", "replay", "promote", "export", "evaluate", "help",
         "compare", "report", "tune", "certs", "link", "share", "site", "audit"]  # fmt: skip
NEAR = ["runn", "lsit", "plot", "train", "halp", "sweep", "start", "", " ", "ü", "-", "config", "version"]
PARTS = ["task", "strategy.server", "strategy.client", "strategy.schedule", "compression.up", "compression.down",
         "network", "partition", "engine", "tracker"]  # fmt: skip
TARGETS = [
    "os.path.join", "os.system", "builtins.dict", "builtins.print", "builtins.type", "collections.Counter", "os", "sys",
    "fl_bench.strategies.base.LocalAlgorithm", "fl_bench.tasks.base.Task", "fl_bench.engines.base.Engine",
    "fl_bench.network.schedule.Schedule", "fl_bench.network.clock.Network", "fl_bench.compression.base.Codec",
    "fl_bench.observers.tracker.Tracker", "fl_bench.data.partition.iid", "fl_bench.data.partition.Partition",
    "fl_bench.tasks.cifar.Cifar", "fl_bench.strategies.scaffold.Scaffold", "fl_bench.strategies.moon.Contrastive",
    "flwr.serverapp.strategy.FedAvg", "flwr.serverapp.strategy.Strategy", "flwr.serverapp.strategy.Krum",
    "fl_bench.compression.importance.importance", "fl_bench.nowhere.X", "torch.nn.Module", "this_is_nowhere",
]  # fmt: skip
KEYS = [key for key in known_keys() if not key.startswith("strategy.check")]

Words = list[str]
Kind = Callable[[random.Random], Words]


@functools.cache
def keys_with(word: str) -> list[str]:
    """The keys of the config that this word chooses."""
    return known_keys([word])


def light(name: str) -> list[str]:
    """The options of a group that are quick to import."""
    return [option for option in options(name) if option not in HEAVY]


def odd_value(chance: random.Random) -> Words:
    return [f"{chance.choice(KEYS)}={chance.choice(VALUES)}"]


def near_key(chance: random.Random) -> Words:
    key = list(chance.choice([*KEYS, *GROUPS]))
    place = chance.randrange(len(key))
    key[place : place + chance.randint(0, 1)] = chance.choice(["", "x", ".", "_", "/", "@", ":", " ", "ü", "-", "A"])
    return [f"{''.join(key)}={chance.choice(VALUES)}"]


def change(chance: random.Random) -> Words:
    key = chance.choice([*KEYS, *GROUPS, *(key.split(".")[0] for key in KEYS), "", "nope", "a.b.c", "_target_"])
    return [
        chance.choice(["~{0}", "~{0}={1}", "+{0}={1}", "++{0}={1}", "+{0}", "{0}"]).format(key, chance.choice(VALUES))
    ]


def group(chance: random.Random) -> Words:
    """Tasks whose data takes long, or comes from elsewhere, apart."""
    name = chance.choice([g for g in GROUPS if g not in ("task", "data")])
    option = chance.choice([*light(name), *VALUES, f"{light(name)[0]}x"])
    return [
        chance.choice(["{0}={1}", "{0}={1}", "+{0}={1}", "{0}@x={1}", "{0}@:={1}", "{0}/x={1}"]).format(name, option)
    ]


def option_and_key(chance: random.Random) -> Words:
    name = chance.choice([g for g in GROUPS if g not in ("task", "data", "experiment", "engine")])
    word = f"{name}={chance.choice(light(name))}"
    keys = [key for key in keys_with(word) if key.startswith(f"{name.split('/')[0]}.") and ".check." not in key]
    return [word, *(f"{chance.choice(keys)}={chance.choice(VALUES)}" for _ in range(chance.randint(1, 2)) if keys)]


def hydras(chance: random.Random) -> Words:
    return [chance.choice(HYDRA), *odd_value(chance)[: chance.randint(0, 1)]]


def flags(chance: random.Random) -> Words:
    return [*chance.choice(FLAGS), *chance.choice([[], ["seed=1"], odd_value(chance)])]


def sweep(chance: random.Random) -> Words:
    values = ",".join(chance.choice(VALUES) for _ in range(2))
    word = f"{chance.choice([*KEYS, 'strategy', 'partition'])}={chance.choice([values, *VALUES[-16:]])}"
    return ["-m", word, *chance.choice([[], ["resume=true"], ["hydra.sweep.dir=../canary"], ["hydra.sweep.dir=sweep"]])]


def own_yaml(chance: random.Random) -> Words:
    name, place = chance.choice(list(YAMLS)), chance.choice(["strategy", "task", "network", "partition", "experiment"])
    verb = chance.choice([[], [], ["list"], ["check", f"strategy={name}"], ["help"], ["--cfg", "job"]])
    return [
        *verb,
        "--config-dir",
        f"own/{name}",
        *([] if verb[:1] in (["list"], ["help"], ["check"]) else [f"{place}={name}"]),
    ]


def verb(chance: random.Random) -> Words:
    paths = ["run", "nope", "notes.txt", ".", "../canary", "/dev/null", "", "ü", "damaged", "empty"]
    more = [
        ["num_rounds=3"], odd_value(chance), ["--round", "1", "--client", "0"],
        ["--round", chance.choice(VALUES), "--client", "9"], ["--to", "none"], ["--to", chance.choice(VALUES)],
        ["--to"], [chance.choice(paths)], ["--trust", "x"], ["--nope"], ["-h"], ["engine=simulation"],
        ["tracker=nope"], ["strategy=fedprox"], [], ["strategy=all", "nope=1"], ["--evaluation"],
    ]  # fmt: skip
    word = chance.choice([*VERBS, *NEAR])
    if word == "check":  # a check that is right trains, for seconds
        return [
            "check",
            *chance.choice([[], ["strategy=nope"], ["fedavg", "nope=1"], ["all", "local.lr=-1"], ["--nope"]]),
        ]
    return [word, *chance.choice([[], [chance.choice(paths)]]), *chance.choice(more)]


def several(chance: random.Random) -> Words:
    return [
        word
        for _ in range(chance.randint(2, 4))
        for word in chance.choice([odd_value, near_key, change, group])(chance)
    ]


def nested(chance: random.Random) -> Words:
    """A value made by the grammar: dicts and lists of texts, numbers and interpolations."""

    def value(depth: int) -> str:
        kind = chance.choice(["leaf", "list", "dict"]) if depth else "leaf"
        if kind == "leaf":
            return chance.choice(["1", "-2.5", "x", "null", "true", "'a b'", "ü", "nan", f"${{{chance.choice(KEYS)}}}"])
        parts = [value(depth - 1) for _ in range(chance.randint(0, 3))]
        if kind == "list":
            return f"[{','.join(parts)}]"
        names = ["a", "name", "_target_", "lr", "up", "1", "'b c'"]
        return f"{{{','.join(f'{name}:{part}' for name, part in zip(names, parts, strict=False))}}}"

    return [f"{chance.choice(['', '', '+', '++'])}{chance.choice([*KEYS, *GROUPS, *PARTS])}={value(3)}"]


def reference(chance: random.Random) -> Words:
    """Keys that refer to each other, to nothing, in circles, and to what OmegaConf and Hydra resolve."""
    a, b = chance.choice(KEYS), chance.choice(KEYS)
    target = chance.choice([
        b, a, b.split(".")[0], f".{b}", f"..{b}", "oc.env:HOME", "oc.env:NOPE,1", f"oc.select:{b}", "oc.select:nope,3",
        "oc.decode:'1'", "oc.decode:'{'", f"oc.create:{{a:${{{b}}}}}", "oc.dict.keys:local", "oc.deprecated:seed",
        "hydra:runtime.cwd", "hydra:nope", "hydra:", "now:%Y", "now:", "nope:1", "oc.env:", "", " ", "a b", "${seed}",
    ])  # fmt: skip
    return chance.choice([[f"{a}=${{{target}}}"], [f"{a}=${{{b}}}", f"{b}=${{{a}}}"], [f"{a}=x${{{target}}}y"]])


def twice(chance: random.Random) -> Words:
    """Two words for the same thing, or one within the other."""
    name = chance.choice(["strategy", "partition", "network", "compression", "tracker", "compression/down"])
    some = [f"{name}={chance.choice(light(name))}" for _ in range(2)]
    key = chance.choice([key for key in KEYS if "." in key])
    other = [f"{key}={chance.choice(VALUES)}", f"{key.split('.')[0]}={chance.choice(['null', '{}', '3', '[]'])}"]
    return chance.choice([some, other, other[::-1], [*some, f"~{name}"], [f"~{name}", *some], [some[0], other[0]]])


def target(chance: random.Random) -> Words:
    """A class of another kind, or something that is none, in the place of a part."""
    return [f"{chance.choice(PARTS)}._target_={chance.choice([*TARGETS, *VALUES])}"]


def shaken(chance: random.Random) -> Words:
    """The words of another kind, with a few signs lost, doubled, or changed to any other."""
    words = list(chance.choice([odd_value, option_and_key, change, group, nested, sweep])(chance))
    place = chance.randrange(len(words))
    signs = list(words[place])
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(signs))
        sign = chance.choice([*"=,:.[]{}()'\"\\$~+-@/ \t", chr(chance.randint(33, 0x2FFF)), ""])
        signs[at : at + chance.randint(0, 1)] = sign
    words[place] = "".join(signs).replace("\x00", "")
    return words


def on_a_run(chance: random.Random) -> Words:
    """Words for a run that there is."""
    words = chance.choice([odd_value, change, nested, twice, reference, target])(chance)
    return chance.choice(
        [["resume", "run", *words], ["evaluate", "run", *words], ["export", "run", "--to", chance.choice(VALUES)]]
    )


def other_task(chance: random.Random) -> Words:
    """A task with a model that has keys; its synthetic data is made at once."""
    keys = [key for key in keys_with("task=cifar") if key.split(".")[0] in ("task", "model", "local")]
    return ["task=cifar", f"{chance.choice(keys)}={chance.choice(VALUES)}"]


def optimizer(chance: random.Random) -> Words:
    name = chance.choice([name for name in vars(torch.optim) if not name.startswith("__")] + ["", "nope", "3", "[a]"])
    key = chance.choice(["momentum", "weight_decay", "betas", "foreach", "fused", "lr", "params", "name", "nope"])
    more = chance.choice([[], [f"+local.optimizer.{key}={chance.choice([*VALUES, '[0.5,0.9]', '0.1'])}"]])
    return [f"local.optimizer.name={name}", *more]


KINDS: list[Kind] = [
    odd_value, odd_value, near_key, change, group, option_and_key, hydras, flags, sweep, own_yaml, verb, several,
    nested, reference, twice, target, shaken, on_a_run, other_task, optimizer,
]  # fmt: skip


def words_of(number: int) -> Words:
    """The command line of this number."""
    chance = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    words = kind(chance)
    if kind in (verb, on_a_run) or words[:1] in (["list"], ["check"], ["help"]):
        return words
    return [*BASE, *words] if chance.random() < 0.7 else [*words, *BASE]
