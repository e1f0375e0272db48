"""Who moves which variable, and what an objective can get wrong about it."""

import re

import numpy as np
import pytest

from t5x_like.objectives.base import Assignment, Ema, Frozen, Statistics, Trained, assign
from t5x_like.parallel.parameters import ParameterInfo


def decay(step):
    return 0.9


STUDENT, TEACHER = Trained(), Ema(of="student", decay=decay)


def shaped(*shape):
    return ParameterInfo(shape, np.float32, (None,) * len(shape), "matrix")


INFOS = {
    ("student", "kernel"): shaped(2, 3),
    ("student", "head", "bias"): shaped(3),
    ("student", "mean"): shaped(3),
    ("teacher", "kernel"): shaped(2, 3),
    ("teacher", "head", "bias"): shaped(3),
    ("teacher", "mean"): shaped(3),
}
IS_PARAMETER = {path: path[-1] != "mean" for path in INFOS}


def test_the_longest_prefix_wins_and_the_rest_goes_by_kind():
    roles = {"teacher": TEACHER, "teacher.head": Frozen(), "student.head": Frozen()}
    assert assign(INFOS, IS_PARAMETER, roles) == {
        ("student", "kernel"): Assignment(Trained()),
        ("student", "head", "bias"): Assignment(Frozen()),
        ("student", "mean"): Assignment(Statistics()),
        ("teacher", "kernel"): Assignment(TEACHER, ("student", "kernel")),
        ("teacher", "head", "bias"): Assignment(Frozen()),
        ("teacher", "mean"): Assignment(TEACHER, ("student", "mean")),
    }


@pytest.mark.parametrize(
    "roles, sentence",
    [
        ({"techer": TEACHER}, "the role of 'techer' is that of no variable; did you mean 'teacher'?"),
        ({"teacher.kernle": Frozen()}, "'teacher.kernle' is that of no variable; did you mean 'teacher.kernel'"),
        (
            {"teacher": Frozen(of="pupil")},
            "teacher.kernel follows 'pupil', where there is no pupil.kernel of its shape",
        ),
        (
            {"teacher.kernel": Frozen(of="student.head.bias")},
            "teacher.kernel follows 'student.head.bias', where there is no student.head.bias of its shape",
        ),
        (
            {"teacher": TEACHER, "student": Frozen(of="teacher")},
            "student.kernel follows teacher.kernel, which follows something else",
        ),
    ],
)
def test_a_role_that_cannot_be(roles, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        assign(INFOS, IS_PARAMETER, roles)
