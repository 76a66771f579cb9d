//! Toy models with exact gradients, fixture loader and tolerance asserts for the align workspace
