//! Programs made of bartizan's public parts. See `README.md` beside this crate.
