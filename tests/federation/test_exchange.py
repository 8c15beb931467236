"""What crosses between the server and its workers comes back as it was sent."""

import math

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.federation.exchange import TOTAL, Answer, Job, Report, Status, Trouble
from fl_bench.metrics import Mean


def test_our_codes_are_none_of_flowers() -> None:
    flowers = {value for name, value in vars(ErrorCode).items() if name.isupper()}
    assert {0, 1, 2, 3, 4} <= flowers  # among them "message unavailable", which a real link may give
    assert not flowers & {int(code) for code in Trouble}


def test_a_job_and_the_strategys_own_records() -> None:
    InlineGrid()  # gives messages the identity that they must bear
    job = Job("data", "state", "a run", each=True, together=3)
    strategys = RecordDict({"config": ConfigRecord({"mu": 0.5})})
    content = job.beside(strategys, round=4, clients=(7, 2), weight_bound=90)
    message = Message(content, 1, "train")
    assert Job.of(message) == Job("data", "state", "a run", True, 3, round=4, clients=(7, 2), weight_bound=90)
    assert message.content["config"] == strategys["config"]
    assert list(strategys) == ["config"]  # which is not changed


def test_a_report_to_the_bit() -> None:
    InlineGrid()
    third = Mean(1 / 3, 3)
    answers = [
        Answer(0, Status.OK, {"loss": third}, 12, 1, {"alpha": 0.1}, steps=4, bytes_up=40),
        Answer(1, Status.FAILED, why='it said "no'),
        Answer(2, Status.WITHHELD, {"loss": Mean(math.inf, 1)}, 3, bytes_up=1),
    ]
    model = np.array([0.1, -0.0, 1e-45], np.float32)
    request = Message(RecordDict(), 1, "train")
    request.metadata.__dict__["_message_id"] = "1"
    report = Report.of(Report(answers, 77, {TOTAL: model}, weight=12, together=2).reply_to(request))
    assert report.answers == answers
    assert (report.peak_mb, report.weight, report.together) == (77, 12, 2)
    assert report.models[TOTAL].tobytes() == model.tobytes()
