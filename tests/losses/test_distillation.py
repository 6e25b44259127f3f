"""KL from teacher to student, by hand and by property."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from art_jax.errors import ConfigError
from art_jax.losses import distillation

TAU = 768**0.5
# Hand-computed for ART: reference vectors of the official loss, batchmean reduction.
DOTS = np.array([[80.0, 70, 60, 50], [10, 20, 30, 40]], np.float32)
TEACHER = np.array([[-1.0, -1.2, -2, -3], [-1, -1, -1, -1]], np.float32)


def test_two_passages_by_hand():
    # Student (1/2, 1/2); teacher softmax(log 3, 0) = (3/4, 1/4).
    student = jnp.array([[5.0, 5.0]])
    teacher = jnp.array([[np.log(3.0), 0.0]], jnp.float32)
    want = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    got = distillation.teacher_kl(student, teacher, temperature=1.0)
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_equals_the_official_vectors():
    got = distillation.teacher_kl(DOTS, TEACHER, temperature=TAU)
    np.testing.assert_allclose(got, [0.041695, 0.079927], atol=1e-6)
    np.testing.assert_allclose(got.mean(), 0.060811, atol=1e-6)


def test_gradient_is_student_minus_teacher_over_temperature():
    grad = jax.grad(
        lambda dots: distillation.teacher_kl(dots, TEACHER, temperature=TAU)[0]
    )(jnp.asarray(DOTS))
    want = [-0.001231, -0.002749, 0.001236, 0.002744]
    np.testing.assert_allclose(grad[0], want, atol=1e-6)
    np.testing.assert_array_equal(grad[1], 0)


def test_no_gradient_into_the_teacher():
    grad = jax.grad(
        lambda teacher: distillation.teacher_kl(DOTS, teacher, temperature=TAU).sum()
    )(jnp.asarray(TEACHER))
    np.testing.assert_array_equal(grad, 0)


def test_shifting_a_querys_teacher_scores_changes_nothing():
    shift = jnp.array([[7.0], [-3.0]])
    want = distillation.teacher_kl(DOTS, TEACHER, temperature=TAU)
    got = distillation.teacher_kl(DOTS, TEACHER + shift, temperature=TAU)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_masked_slots_are_as_if_absent_and_give_no_gradient():
    scores = random.normal(random.key(0), (3, 5))
    teacher = random.normal(random.key(1), (3, 5))
    where = jnp.array([[True] * 3 + [False] * 2] * 3)

    def loss(scores):
        return distillation.teacher_kl(scores, teacher, temperature=2.0, where=where)

    want = distillation.teacher_kl(scores[:, :3], teacher[:, :3], temperature=2.0)
    np.testing.assert_allclose(loss(scores), want, rtol=1e-5)
    grad = jax.grad(lambda scores: loss(scores).sum())(scores)
    assert (np.asarray(grad)[:, 3:] == 0).all()


def test_a_query_without_passages_costs_nothing_and_keeps_gradients_finite():
    where = jnp.zeros((1, 3), bool)

    def loss(scores):
        return distillation.teacher_kl(
            scores, jnp.ones((1, 3)), temperature=1.0, where=where
        ).sum()

    value, grad = jax.value_and_grad(loss)(jnp.array([[1.0, 2.0, 3.0]]))
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def test_scale_sharpens_the_teacher():
    teacher = jnp.array([[0.5 * np.log(3.0), 0.0]], jnp.float32)
    got = distillation.teacher_kl(
        jnp.zeros((1, 2)), teacher, temperature=1.0, teacher_scale=2.0
    )
    want = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_entropy_of_a_uniform_choice_is_its_logarithm():
    where = jnp.array([[True, True, True, True, False]])
    got = distillation.entropy(jnp.zeros((1, 5)), where)
    np.testing.assert_allclose(got, [np.log(4.0)], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "temperature", "says"), [((2, 3), 1.0, "both must"), ((2, 4), 0.0, "pos")]
)
def test_refuses_what_cannot_be_meant(shape, temperature, says):
    with pytest.raises(ConfigError, match=says):
        distillation.teacher_kl(DOTS, jnp.zeros(shape), temperature=temperature)
