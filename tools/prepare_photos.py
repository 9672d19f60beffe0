"""Photographs of cards, blood cells and raccoons, as their authors publish them, become series.

    python tools/prepare_photos.py cards/ BCCD_Dataset-master.zip raccoon_dataset/ \
        --out datasets/photos --folds 5 --fold 0

Downloads nothing; docs/protocols.md says where the images come from and under which terms.
"""

from published.command import main
from published.sets import PHOTOS

HELP = """Check folders or archives of photographs with boxes and make data sets of them.

Cards (EdjeElectronics), blood cells (Shenggan's BCCD) and raccoons (datitran), as a clone or a zip
of GitHub gives them. Images whose authors give no split are cut into folds; scenes that were taken
twice stay in one. Nothing is downloaded, and nothing half-written is left behind.
"""

if __name__ == "__main__":
    main(PHOTOS, HELP)
