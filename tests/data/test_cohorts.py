"""Readers: BUSI, BUS-BRA, CSV; every fault is one line that names the file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busmt.data.cohorts import read_bus_bra, read_busi, read_cohort, read_csv
from busmt.data.phantom import write_phantoms
from busmt.errors import DataError


@pytest.fixture
def cohort(tmp_path):
    return write_phantoms(tmp_path / "my scans (2020)", per_class=2, seed=4, size=(60, 80))


class TestBusi:
    def test_names_with_spaces_and_parentheses(self, cohort):
        catalog = read_busi(cohort)
        assert catalog.ids[:2] == ["normal (1)", "normal (2)"]
        assert catalog.counts() == {"normal": 2, "benign": 2, "malignant": 2}

    def test_further_masks_are_united(self, cohort):
        extra = np.zeros((60, 80), np.uint8)
        extra[:6, :6] = 255
        Image.fromarray(extra).save(cohort / "benign" / "benign (1)_mask_1.png")
        sample = next(sample for sample in read_busi(cohort) if sample.image_id == "benign (1)")
        assert len(sample.masks) == 2
        assert sample.read_mask()[:6, :6].all()

    def test_missing_mask(self, cohort):
        (cohort / "benign" / "benign (2)_mask.png").unlink()
        with pytest.raises(DataError, match=r"benign \(2\)\.png"):
            read_busi(cohort)

    def test_mask_without_image(self, cohort):
        (cohort / "malignant" / "malignant (2).png").unlink()
        with pytest.raises(DataError, match=r"malignant \(2\)_mask\.png"):
            read_busi(cohort)

    def test_size_mismatch(self, cohort):
        Image.new("L", (30, 20), 255).save(cohort / "benign" / "benign (1)_mask.png")
        with pytest.raises(DataError, match=r"benign \(1\)_mask\.png.*30x20.*80x60"):
            read_busi(cohort)

    def test_text_for_an_image(self, cohort):
        (cohort / "normal" / "normal (1).png").write_text("hello")
        with pytest.raises(DataError, match=r"normal \(1\)\.png"):
            read_busi(cohort)

    def test_unknown_class_folder(self, cohort):
        (cohort / "normal").rename(cohort / "cyst")
        with pytest.raises(DataError, match="cyst"):
            read_busi(cohort)

    def test_empty_class_folders(self, tmp_path):
        (tmp_path / "benign").mkdir()
        with pytest.raises(DataError, match="no images"):
            read_busi(tmp_path)

    def test_empty_folder(self, tmp_path):
        with pytest.raises(DataError, match="empty"):
            read_cohort(tmp_path)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(DataError, match="absent"):
            read_cohort(tmp_path / "absent")

    @pytest.mark.real_data
    def test_real_busi(self, busi_dir):
        catalog = read_cohort(busi_dir)
        assert catalog.counts() == {"normal": 133, "benign": 437, "malignant": 210}
        several = [sample for sample in catalog if len(sample.masks) > 1]
        assert len(several) == 17
        for sample in several[:4]:
            areas = [type(sample)(sample.image_id, sample.image, (mask,), sample.label, "").read_mask().sum()
                     for mask in sample.masks]  # fmt: skip
            assert max(areas) <= sample.read_mask().sum() <= sum(areas)
        assert read_cohort(busi_dir.parent).ids == catalog.ids


class TestBusBra:
    @pytest.mark.real_data
    def test_real_bus_bra(self, bus_bra_dir):
        catalog = read_cohort(bus_bra_dir)
        assert catalog.counts() == {"normal": 0, "benign": 1268, "malignant": 607}
        assert catalog.table["group"].nunique() == 1064
        assert sorted(catalog.table["fold"].unique()) == [0, 1, 2, 3, 4]
        assert catalog.table.groupby("group")["fold"].nunique().max() == 1
        assert catalog.table["birads"].between(2, 5).all()

    def test_table_without_its_images(self, tmp_path):
        pd.DataFrame({"ID": ["bus_0001-l"], "Case": [1], "Pathology": ["benign"]}).to_csv(
            tmp_path / "bus_data.csv", index=False
        )
        with pytest.raises(DataError, match=r"bus_0001-l\.png"):
            read_bus_bra(tmp_path)

    def test_missing_column(self, tmp_path):
        (tmp_path / "bus_data.csv").write_text("ID,Case\nx,1\n")
        with pytest.raises(DataError, match="Pathology"):
            read_cohort(tmp_path)


class TestCsv:
    def write(self, cohort, rows: list[dict]) -> str:
        path = cohort / "list.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
        return str(path)

    def test_paths_groups_and_metadata(self, cohort):
        rows = [
            {"image": "benign/benign (1).png", "masks": "benign/benign (1)_mask.png", "label": "Benign", "patient": 7,
             "device": "A", "spacing_mm": 0.1},
            {"image": "benign/benign (2).png", "masks": "benign/benign (2)_mask.png", "label": "benign", "patient": 7,
             "device": "B", "spacing_mm": 0.1},
            {"image": "normal/normal (1).png", "masks": "", "label": "normal", "patient": 8, "device": "A",
             "spacing_mm": 0.2},
        ]  # fmt: skip
        catalog = read_cohort(self.write(cohort, rows))
        assert catalog.table["group"].nunique() == 2
        assert catalog.table["device"].tolist() == ["A", "B", "A"]
        assert catalog[0].read_mask().any()
        assert not catalog[2].read_mask().any()
        catalog.verify()

    def test_ids_are_text(self, cohort):
        rows = [{"image_id": "007", "image": "normal/normal (1).png", "label": "normal", "group": "01"}]
        catalog = read_csv(self.write(cohort, rows))
        assert catalog.ids == ["007"]
        assert catalog[0].group == "01"

    @pytest.mark.parametrize(
        "row, words",
        [
            ({"image": "absent.png", "label": "normal"}, r"absent\.png"),
            ({"image": "normal/normal (1).png", "label": "cyst"}, "cyst"),
            ({"image": "benign/benign (1).png", "label": "benign"}, "no mask"),
            ({"image": "normal/normal (1).png"}, "column label"),
        ],
    )
    def test_faults(self, cohort, row, words):
        with pytest.raises(DataError, match=words):
            read_csv(self.write(cohort, [row]))

    def test_not_a_table(self, tmp_path):
        (tmp_path / "x.csv").write_bytes(b"\x89PNG\xff\xfe\x00")
        with pytest.raises(DataError, match=r"x\.csv"):
            read_cohort(tmp_path / "x.csv")
