"""`metarl push` and `metarl pull` of a trained run."""


def test_a_pulled_run_is_evaluated_like_the_pushed_one(trained, metarl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trained["sine"]
    status, printed = metarl("push", run, "shared", "--licence", "mit")
    assert status == 0 and "README.md" in printed.out, printed.err
    status, printed = metarl("pull", "shared", "--runs", "others")
    assert status == 0, printed.err
    pulled = tmp_path / "others" / "sine" / "maml" / run.name
    tables = []
    for folder in (run, pulled):
        status, printed = metarl("evaluate", folder)
        assert status == 0, printed.err
        tables.append(printed.out.partition("Checkpoint")[0])
    assert tables[0] == tables[1]
    status, printed = metarl("pull", "shared", "--runs", "others")
    assert status == 1 and "there is one already" in printed.err
