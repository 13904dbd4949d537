"""The studio: a local web page that draws chest X-rays (``xreal studio``, extra ``studio``).

Nothing but ``page``, ``events`` and ``server`` knows Gradio; the rest is plain functions on masks, files and a model.
"""
