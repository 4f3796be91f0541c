import pytest
from prolong.verifiers.answers.chemistry import same_chemical
from prolong.verifiers.answers.compounds import formulas


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("sodium chloride", "NaCl"), ("Iron (II) chloride", "FeCl2"), ("iron(III) oxide", "Fe2O3"),
        ("calcium hydroxide", "Ca(OH)2"),
        ("ammonium sulfate", "(NH4)2SO4"), ("dinitrogen tetroxide", "N2O4"), ("sulfur hexafluoride", "SF6"),
        ("aluminium sulphate", "Al2(SO4)3"), ("copper(II) sulfate pentahydrate", "CuSO4*5H2O"), ("oxygen gas", "O2"),
        ("ferric ion", "Fe3+"), ("sulfate ion", "SO42-"), ("sodium peroxide", "Na2O2"), ("magnesium nitride", "Mg3N2"),
        ("dihydrogen monoxide", "H2O"), ("lead(II) nitrate", "Pb(NO3)2"), ("diphosphorus pentoxide", "P2O5"), ("gold", "Au"),
    ],
)  # fmt: skip
def test_a_name_gives_its_formula(name: str, formula: str):
    assert formulas(name) == {formula}


@pytest.mark.parametrize("name", ["iron oxide", "photosynthesis", "salt", "", "ion", "chloride of", "unobtainium chloride"])
def test_other_words_and_ambiguous_names_give_none(name: str):
    assert not formulas(name)


def test_two_names_meet_only_in_one_substance():
    assert same_chemical("ferric chloride", "iron(III) chloride")
    assert not same_chemical("iron(II) chloride", "iron(III) chloride")
    assert not same_chemical("hydrogen chloride", "hydrochloric acid")
