"""`prolong trace`: the spans that all processes of a run recorded, on one clock, as a file that Perfetto opens.

recorded.py reads them, clocks.py puts them on one clock, lanes.py lays them side by side, chrome.py makes events of them.
"""
