"""Analysis of compiled programs: the optimised, scheduled HLO text of one device."""
