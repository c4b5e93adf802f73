import dataclasses

from metarl.lab import saved_run


def test_navigation_is_drawn_in_the_terminal_and_as_a_file(trained, metarl, tmp_path):
    out = tmp_path / "paths.png"
    status, printed = metarl("play", trained["navigation2d"], "--tasks", 2, "--out", out)
    assert status == 0, printed.err
    assert printed.out.count("goal (") == 2 and printed.out.count("return") == 2 * 3
    assert "after 2 steps" in printed.out and "✶" in printed.out
    assert any("\u2800" < letter <= "\u28ff" for letter in printed.out)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_other_families_get_a_table_of_returns(trained, metarl):
    _, printed = metarl("play", trained["bandit"], "--tasks", 4, "--steps", 5)
    assert "task 3" in printed.out and "mean" in printed.out
    first = [row.split()[0] for row in printed.out.splitlines() if row.strip()]
    assert [word for word in first if word.isdigit()] == ["0", "1", "2", "3", "4", "5"]


def test_sine_shows_its_fits(trained, metarl, tmp_path):
    status, printed = metarl("play", trained["sine"], "--out", tmp_path / "fits.svg")
    assert status == 0
    assert printed.out.count("A = ") == 3 and "after 10 steps" in printed.out
    assert "truth" in printed.out and "network" in printed.out
    assert "<svg" in (tmp_path / "fits.svg").read_text()


def test_playing_leaves_the_run_as_it_was(trained, metarl):
    files = sorted(p for p in trained["bandit"].rglob("*"))
    times = [p.stat().st_mtime_ns for p in files]
    metarl("play", trained["bandit"])
    assert sorted(p for p in trained["bandit"].rglob("*")) == files
    assert [p.stat().st_mtime_ns for p in files] == times


def test_what_cannot_be_played_is_told(trained, metarl, monkeypatch):
    status, printed = metarl("play", trained["bandit"], "--tasks", 0)
    assert status == 1 and "test_tasks >= 1" in printed.err
    opened = saved_run.reopened

    class Without:
        def __init__(self, *arguments, **changes):
            self.opened = opened(*arguments, **changes)

        def __enter__(self):
            parts, loop, checkpoint = self.opened.__enter__()
            return dataclasses.replace(parts, show=None), loop, checkpoint

        def __exit__(self, *error):
            return self.opened.__exit__(*error)

    monkeypatch.setattr(saved_run, "reopened", Without)
    status, printed = metarl("play", trained["bandit"])
    assert status == 1 and "metarl evaluate" in printed.err
    status, printed = metarl("play", trained["sine"], "--video", "sine.gif")
    assert status == 1 and "no film of an adaptation. Leave out --video" in printed.err


def test_a_film_is_made_of_control_tasks_alone(trained, metarl, tmp_path):
    out = tmp_path / "a.gif"
    arguments = ("--tasks", 1, "--steps", 0, "--video", out)
    status, printed = metarl("play", trained["navigation2d"], *arguments)
    assert status == 0, printed.err
    assert out.read_bytes().startswith(b"GIF8") and "return" not in printed.out
    status, printed = metarl("play", tmp_path / "no run", "--video", tmp_path / "film.avi")
    assert status == 1 and "end in .gif or .mp4" in printed.err  # before a run is opened
    status, printed = metarl("play", trained["sine"], "--video", out)
    assert status == 1 and "`film`" in printed.err
