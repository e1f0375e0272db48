"""Who moves which variable, and what an objective can get wrong about it."""

import re

import numpy as np
import pytest
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.objectives.roles import Assignment, Ema, Frozen, Statistics, Trained, assign
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
KINDS = {path: nnx.Variable if path[-1] == "mean" else nnx.Param for path in INFOS}


def test_the_first_filter_wins_and_the_rest_goes_by_kind():
    roles = [("**/head/**", Frozen()), ("teacher/**", TEACHER)]
    assert assign(INFOS, KINDS, roles) == {
        ("student", "kernel"): Assignment(Trained()),
        ("student", "head", "bias"): Assignment(Frozen()),
        ("student", "mean"): Assignment(Statistics()),
        ("teacher", "kernel"): Assignment(TEACHER, ("student", "kernel")),
        ("teacher", "head", "bias"): Assignment(Frozen()),
        ("teacher", "mean"): Assignment(TEACHER, ("student", "mean")),
    }


@pytest.mark.parametrize(
    "chosen, taken",
    [
        ("teacher/**", 3),
        ("**/bias", 2),
        ("*/head/*", 2),
        ("**", 6),
        ("student/*", 2),
        (nnx.Param, 4),
        (lambda path, info: info.shape == (3,), 4),
    ],
)
def test_a_filter_is_a_glob_a_kind_or_a_predicate(chosen, taken):
    assigned = assign(INFOS, KINDS, [(chosen, Frozen())])
    assert sum(isinstance(assignment.role, Frozen) for assignment in assigned.values()) == taken


@pytest.mark.parametrize(
    "roles, sentence",
    [
        ([("techer/**", TEACHER)], "the filter 'techer/**' matches no variable; did you mean 'teacher'?"),
        ([("teacher/kernle", Frozen())], "'teacher/kernle' matches no variable; did you mean 'teacher/kernel'"),
        (
            [("teacher/**", Frozen(of="pupil"))],
            "teacher/kernel follows 'pupil', where there is no pupil/kernel of its shape",
        ),
        ([("**/kernel", Frozen(of="student"))], "needs a filter like 'teacher/**', not '**/kernel'"),
        (
            [("teacher/**", TEACHER), ("student/**", Frozen(of="teacher"))],
            "student/kernel follows teacher/kernel, which follows something else",
        ),
        (
            [("teacher/**", Frozen()), ("teacher/head/**", TEACHER)],
            "the role Ema of 'teacher/head/**' is in conflict with earlier ones, which leave it nothing",
        ),
    ],
)
def test_a_role_that_cannot_be(roles, sentence):
    with pytest.raises(ExperimentError, match=re.escape(sentence)):
        assign(INFOS, KINDS, roles)
