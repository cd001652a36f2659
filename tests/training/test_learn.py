import torch

from training import learn
from training.fit import models
from training.fit.distributed import World
from training.task import Order, prepare


def test_the_temperature_is_computed_with_the_threads_of_the_settings(tmp_path, monkeypatch):
    text = 'name = "threads"\n[data]\nsource = "digits"\n[model]\nwidth = 8\n[loop]\nepochs = 1\nthreads = 1\n'
    (tmp_path / "threads.toml").write_text(text)
    used, original = [], models.predict
    monkeypatch.setattr(models, "predict", lambda *a: used.append(torch.get_num_threads()) or original(*a))
    (tmp_path / "run").mkdir()
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # those of a machine with two cores
    try:
        learn.fit(prepare(Order(tmp_path / "threads.toml", tmp_path / "run")), World())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert used == [1, 1]
