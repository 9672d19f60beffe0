"""VOC 2007+2012, Clipart1k, Watercolor2k and Comic2k, as their authors pack them, become series.

    python tools/prepare_pascal.py VOCtrainval_06-Nov-2007.tar VOCtest_06-Nov-2007.tar \
        VOCtrainval_11-May-2012.tar clipart.zip watercolor.zip comic.zip --out datasets/pascal

Downloads nothing; docs/published.md says where the archives come from and under which terms.
"""

from published.command import main
from published.sets import PASCAL

HELP = """Check the archives of VOC, Clipart1k, Watercolor2k and Comic2k and make data sets of them.

VOC needs its three archives; the others are one each. Series whose data are there are written
beside them. Nothing is downloaded, and nothing half-written is left behind.
"""

if __name__ == "__main__":
    main(PASCAL, HELP)
