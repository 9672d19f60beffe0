"""The Diverse Weather sets (Single-DGOD), as their authors pack them, become series.

    python tools/prepare_weather.py Daytime_Sunny.zip Night-Sunny.zip Daytime-Foggy.zip \
        --out datasets/weather --overlap drop-from-train

Downloads nothing; docs/published.md says where the archives come from and under which terms.
"""

from published.command import main
from published.sets import WEATHER

HELP = """Check the archives or folders of the Diverse Weather sets and make data sets of them.

A set is known by the name of its folder or archive; write NAME=ARCHIVE where that fails, NAME being
day-sunny, night-sunny, day-foggy, dusk-rainy or night-rainy. Nothing is downloaded, and nothing
half-written is left behind.
"""

if __name__ == "__main__":
    main(WEATHER, HELP)
