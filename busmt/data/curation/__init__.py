"""Curation: duplicates, contradictions and unusable samples, each with its reason.

>>> curation = curate(read_cohort("path/to/BUSI"), CurationConfig())    # doctest: +SKIP
>>> curation.catalog      # the kept samples; `group` unites what shows the same lesion    # doctest: +SKIP
>>> curation.decisions    # one row per sample, with the reason in plain words             # doctest: +SKIP
"""

from busmt.data.curation.cache import default_cache_dir
from busmt.data.curation.decide import Curation, curate
from busmt.data.curation.names import NameList, built_in_lists, read_name_list

__all__ = ["Curation", "NameList", "built_in_lists", "curate", "default_cache_dir", "read_name_list"]
