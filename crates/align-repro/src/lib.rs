//! Reproductions of alignment papers as experiments that can fail
