"""The HTML report: `page` makes it; its templates are those of `keras_nin.report`."""
