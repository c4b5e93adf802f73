from metarl.sim import Card, Fact


def test_a_card_prints_its_facts_under_each_other():
    facts = (Fact("tasks", "g ~ U(0, 1)"), Fact("reward", "-|s - g|", "the code"))
    assert str(Card("Line-v1", "walk a line", "A. Author 2020", facts)) == (
        "Line-v1: walk a line\n"
        "Source: A. Author 2020\n"
        "\n"
        "tasks   g ~ U(0, 1)\n"
        "reward  -|s - g|  [the code]\n"
        "splits  disjoint  [MetaRL]"
    )
    text = str(Card("Line-v1", "", "", (), disjoint=False))
    assert text.endswith("splits  train equals validation equals test  [MetaRL]")
