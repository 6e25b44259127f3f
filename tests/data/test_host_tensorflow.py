import os


def test_tensorflow_says_nothing_of_gpus_although_jax_lets_it_warn():
    from art_jax.data import host_tensorflow

    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
    assert host_tensorflow.tf.config.get_visible_devices("GPU") == []
