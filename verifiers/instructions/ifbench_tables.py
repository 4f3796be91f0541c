"""Words, names and places that IFBench's instructions speak of."""

from __future__ import annotations


def _in_order(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _listed(text: str) -> frozenset[str]:
    return frozenset(_in_order(text))


CONJUNCTIONS = _listed("and but for nor or so yet")
# articles, coordinating conjunctions and short prepositions, which a title may write in lower case
MINOR_WORDS = CONJUNCTIONS | _listed("a an the as at by in of off on per to up via vs with from into onto over than if")
PERSON_NAMES = _listed(
    """emma liam sophia jackson olivia noah ava lucas isabella mason mia ethan charlotte alexander amelia benjamin harper
    leo zoe daniel chloe samuel lily matthew grace owen abigail gabriel ella jacob scarlett nathan victoria elijah layla
    nicholas audrey david hannah christopher penelope thomas nora andrew aria joseph claire ryan stella jonathan"""
)
PRONOUNS = _listed(
    """i me we us you he him she her it they them my mine our ours your yours his hers its their theirs myself ourselves
    yourself yourselves himself herself itself themselves this that these those who whom whose which what whoever
    whomever whatever whichever anybody anyone anything everybody everyone everything nobody nothing somebody someone
    something each either neither both all some any none"""
)
# function words of English: pronouns, articles, auxiliaries, conjunctions, prepositions, common adverbs, parts of contractions
STOP_WORDS = _listed(
    """i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it
    its itself they them their theirs themselves what which who whom this that these those am is are was were be been
    being have has had having do does did doing a an the and but if or because as until while of at by for with about
    against between into through during before after above below to from up down in out on off over under again further
    then once here there when where why how all any both each few more most other some such no nor not only own same so
    than too very s t can will just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn haven isn ma
    mightn mustn needn shan shouldn wasn weren won wouldn"""
)
# capitals north of 45 degrees, from north to south, as IFBench has them: without Kyiv (50.45)
CAPITALS = _in_order(
    """Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin Amsterdam Warsaw London
    Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz Chisinau Bern Ljubljana Zagreb"""
)
# one word by which each state of Africa is known, in lower case without accents
AFRICA = _listed(
    """algeria angola benin botswana burkina burundi verde cameroon central chad comoros djibouti egypt equatorial eritrea
    eswatini swaziland ethiopia gabon gambia ghana guinea ivoire ivory kenya lesotho liberia libya madagascar malawi
    mali mauritania mauritius morocco mozambique namibia niger nigeria rwanda tome senegal seychelles sierra somalia
    africa sudan tanzania togo tunisia uganda zambia zimbabwe congo"""
)
