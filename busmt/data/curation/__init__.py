"""Curation: duplicates, contradictions and unusable samples, each with its reason.

from busmt.data.curation import curate

curation = curate(read_cohort("path/to/BUSI"), CurationConfig())
curation.catalog      # the kept samples; `group` unites what shows the same lesion
curation.decisions    # one row per sample, with the reason in plain words
"""

from busmt.data.curation.cache import default_cache_dir
from busmt.data.curation.decide import Curation, curate
from busmt.data.curation.names import NameList, built_in_lists, read_name_list

__all__ = ["Curation", "NameList", "built_in_lists", "curate", "default_cache_dir", "read_name_list"]
