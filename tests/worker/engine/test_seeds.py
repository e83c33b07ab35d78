from worker.engine.seeds import derive, seeded

INITIALIZER = {"module": "keras.initializers", "class_name": "GlorotUniform", "config": {"seed": None}}


def test_seeds_depend_on_the_jobs_seed_and_the_name_alone() -> None:
    assert derive(42, "dense") == derive(42, "dense")
    assert len({derive(42, "dense"), derive(43, "dense"), derive(42, "dense_1"), derive(42, "dense", "kernel")}) == 4
    assert all(0 <= derive(seed, "x") < 2**31 for seed in range(1000))


def test_only_missing_seeds_are_filled_in() -> None:
    config = seeded({"seed": None, "rate": 0.5}, seed=1, name="a", initializers=False)
    assert config == {"seed": derive(1, "a.seed"), "rate": 0.5}
    assert seeded({"seed": 7}, seed=1, name="a", initializers=True) == {"seed": 7}


def test_seeds_of_initializers_are_filled_in_only_if_asked_for() -> None:
    config = {"units": 3, "kernel_initializer": INITIALIZER}
    assert seeded(config, seed=1, name="a", initializers=False) == config
    filled = seeded(config, seed=1, name="a", initializers=True)
    assert filled["kernel_initializer"]["config"]["seed"] == derive(1, "a.kernel_initializer.config.seed")


def test_every_layer_inside_a_wrapper_gets_a_seed_of_its_own() -> None:
    inner = {"module": "keras.layers", "class_name": "LSTM", "config": {"seed": None}}
    config = seeded({"forward": inner, "backward": inner}, seed=1, name="a", initializers=False)
    assert config["forward"]["config"]["seed"] != config["backward"]["config"]["seed"]
