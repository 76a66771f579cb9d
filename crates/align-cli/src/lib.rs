//! The align command line
