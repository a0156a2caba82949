"""Fixtures of the evaluation tests."""

from __future__ import annotations

import pytest
from disc_cohort import fake_predictions, make_cohort
from hypothesis import settings

from busmt.data.catalog import Catalog
from busmt.evaluation.protocol import score_predictions

settings.register_profile("no deadline", deadline=None)  # the first call imports scipy or scikit-learn
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Catalog:
    return make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def evaluation(cohort):
    pairs = zip(cohort, fake_predictions(cohort), strict=True)
    return score_predictions(pairs, cohort.table, referral_threshold=0.2, resamples=200)
