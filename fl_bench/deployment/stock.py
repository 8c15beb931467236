"""The ClientApp of a site that runs Flower's own SuperNode in place of `fl-bench site`; fl-bench is installed there.

flower-supernode --superlink HOST:PORT --root-certificates CERTS/ca.crt --auth-supernode-private-key CERTS/node.key
    --node-config 'name="NAME" certs="CERTS" data="DATA" root="ROOT"'

Such a node starts a process for each message. What a site has in mind from one to the next is in the context, which the
node keeps as long as it lives.
"""

import json
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message
from flwr.clientapp import ClientApp

from fl_bench.deployment import keys
from fl_bench.deployment.site import Session, Site
from fl_bench.errors import ConfigError, FlBenchError, known
from fl_bench.federation.exchange import Trouble

NEEDED = ("name", "certs", "data", "root")  # of --node-config; trust="MODULE,..." may be there too
SESSION = "session"

app = ClientApp()


@app.train()
@app.evaluate()
@app.query()
@app.query("masks")
def answer(message: Message, context: Context) -> Message:
    """Do what `fl-bench site` does with a message."""
    try:
        site = _site(context)
    except (FlBenchError, OSError) as error:
        return Message(Error(Trouble.REFUSED, f"refuses: {known(error)}"), reply_to=message)
    run = message.metadata.run_id
    if SESSION in context.state:
        token, folder, obeyed = json.loads(str(context.state.config_records[SESSION][SESSION]))
        if Path(folder).is_dir():  # else another run has begun here since
            site.sessions[run] = Session(token, Path(folder), set(obeyed))
    reply = site.answer(message)
    if session := site.sessions.get(run):
        kept = json.dumps([session.token, str(session.folder), sorted(session.obeyed)])
        context.state[SESSION] = ConfigRecord({SESSION: kept})
    return reply


def _site(context: Context) -> Site:
    """The site that the node was configured to be. Raises ConfigError where that is not whole."""
    given = {name: str(value) for name, value in context.node_config.items()}
    if lacking := [name for name in NEEDED if name not in given]:
        raise ConfigError(f"--node-config: must have {', '.join(NEEDED)}; {lacking[0]} is not there")
    certs, data, root = (Path(given[name]) for name in ("certs", "data", "root"))
    trusted = given["trust"].split(",") if "trust" in given else ()
    return Site(given["name"], keys.of_site(certs), data, root, trusted)
