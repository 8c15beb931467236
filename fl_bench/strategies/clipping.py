"""Client-side clipping for differential privacy: McMahan et al. 2018, arXiv:1710.06963, "flat clipping".

The client half of Flower's `DifferentialPrivacyClientSide{Fixed,Adaptive}Clipping`: the update is scaled down to the
norm that the server sent, and one bit says whether it was (Andrew et al. 2021, arXiv:1905.03871).
"""

from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM, KEY_NORM_BIT

from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn


class Clipping(LocalAlgorithm):
    bounded, uniform = True, True

    def finish(self, turn: Turn) -> None:
        update = turn.parameters - turn.start
        scale = min(1.0, turn.config[KEY_CLIPPING_NORM] / max(float(update.double().norm()), 1e-12))
        if scale < 1:
            turn.parameters.copy_(turn.start + update * scale)
        turn.reply[KEY_NORM_BIT] = int(scale < 1)
