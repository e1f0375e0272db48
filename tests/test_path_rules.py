import pytest

from t5x_like.errors import ExperimentError
from t5x_like.path_rules import Pattern, Rule, parse_patterns, parse_rules, rename


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("blocks.mlp.up", "blocks.mlp.up", ()),
        ("blocks.mlp", "blocks.mlp.up", None),
        ("blocks.*.up", "blocks.mlp.up", ("mlp",)),
        ("blocks.*", "blocks.mlp.up", None),
        ("block*", "blocks", ("s",)),
        ("block*", "block", ("",)),
        ("**", "blocks.mlp.up", ("blocks.mlp.up",)),
        ("**.up", "up", ("",)),
        ("**.up", "blocks.mlp.up", ("blocks.mlp",)),
        ("blocks.**", "blocks", ("",)),
        ("a.**.b.**", "a.b.b.c", ("", "b.c")),
        ("a.**.*", "a.b.c", ("b", "c")),
        ("**.layer_*_*", "x.layer_1_a", ("x", "1", "a")),
        ("a.b", "axb", None),
    ],
)
def test_patterns(pattern, path, found):
    assert Pattern(pattern).match(path) == found


@pytest.mark.parametrize(
    ("rule", "path", "new"),
    [
        ("blocks.** -> decoder.layers.**", "blocks.mlp.up", "decoder.layers.mlp.up"),
        ("blocks.** -> decoder.layers.**", "head", None),
        ("** -> policy.**", "blocks.mlp.up", "policy.blocks.mlp.up"),
        ("policy.** -> **", "policy.blocks.mlp.up", "blocks.mlp.up"),
        ("policy.** -> **.x", "policy", "x"),
        ("*.layer_*.** -> {2}.{1}.x_{2}.{3}", "a.layer_3.b.c", "3.a.x_3.b.c"),
        ("head.** ->", "head.embedding", ""),
        ("a.*->b.*", "a.c", "b.c"),
    ],
)
def test_rules(rule, path, new):
    assert Rule.parse(rule).apply(path) == new


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("a.b", "is no rule; write `OLD -> NEW`"),
        ("-> b", "'' is not the name of one of its parts"),
        ("a..b -> c", "'' is not the name of one of its parts"),
        ("a.x**.b -> c", "stands for whole parts"),
        ("a.* -> b.**", r"not the first ones of 'a\.\*'; use \{1\}"),
        ("a -> b.*", "not the first ones of 'a'"),
        ("a.* -> b.{2}", "has no wildcard number 2"),
        ("a b -> c", "'a b' is not the name"),
    ],
)
def test_what_is_no_rule_is_named(rule, sentence):
    with pytest.raises(ExperimentError, match=rf"^initialize\.rules\[1\]: .*{sentence}"):
        parse_rules(["a -> b", rule], "initialize.rules")


def test_what_is_no_pattern_is_named():
    with pytest.raises(ExperimentError, match=r"^missing\[0\]: 'a\.' is no path"):
        parse_patterns(["a."], "missing")


def test_renaming_takes_the_first_rule_and_keeps_what_none_matches():
    rules = parse_rules(["a.x ->", "a.* -> b.*", "a.y -> c"], "rules")
    assert rename(["a.x", "a.y", "z"], rules) == {"b.y": "a.y", "z": "z"}
    with pytest.raises(ValueError, match=r"b\.y and a\.y would both be b\.y"):
        rename(["b.y", "a.y"], rules)
