"""The products that stages hand each other: directories that open only when they are whole.

Import from the submodules (`casbah.products.scene`, …), so that a stage loads only what it needs.
"""
