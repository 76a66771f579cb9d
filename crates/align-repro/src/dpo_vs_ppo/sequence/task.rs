//! Expressions, their prompts and programs: compile an expression for a stack machine with three slots.
//!
//! Every expression of at most four operations fits into three slots if the deeper operand comes first, but the program from
//! left to right overflows on 13 prompts of 48.

use std::collections::BTreeSet;

use align_core::align_types::{self, PromptGroup, PromptSource, Purpose, RngStream, TokenId};

use super::{
    machine::{Grade, Inputs, MODULUS, grade},
    vocabulary::{
        ADD, BEGIN, BLANK, CLOSE, END, EQUALS, FIRST_VARIABLE, MINUS, MUL, OPEN, PLUS, RSUB, SUB, TIMES,
        VARIABLES, variable,
    },
};

/// Tokens of every prompt.
pub const PROMPT_TOKENS: usize = 17;
/// Most tokens of an answer, END included.
pub const ANSWER_TOKENS: usize = 10;
/// Prompts that are held out for validation, and as many for the test.
pub const HELD_OUT: usize = 512;
/// Hidden tests of every program.
const TESTS: usize = 8;
/// Probability that a demonstration emits the operands of an operation in the opposite order.
const SWAPPED: f64 = 0.3;
/// The seed of what all runs share: hidden tests and held-out prompts.
const TASK_SEED: u64 = 2404;

/// What random numbers are drawn for; each has streams of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    /// Demonstrations.
    Demonstrations,
    /// Prompts whose answers are sampled once, from the fine-tuned policy.
    Offline,
    /// Fresh prompts of a round or iteration.
    Fresh,
    /// Which answers become pairs.
    Pairs,
    /// Labels that are drawn by lot.
    Labels,
}

impl Stream {
    /// Makes the stream of a seed and a round.
    pub fn random(self, seed: u64, round: u64) -> RngStream {
        RngStream::new(seed, Purpose::Synthetic, round, 20 + self as u64)
    }
}

/// An operation of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// x + y.
    Plus,
    /// x − y.
    Minus,
    /// x · y.
    Times,
}

impl Operation {
    const ALL: [Self; 3] = [Self::Plus, Self::Minus, Self::Times];

    fn token(self) -> TokenId {
        match self {
            Self::Plus => PLUS,
            Self::Minus => MINUS,
            Self::Times => TIMES,
        }
    }

    fn read(token: TokenId) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.token() == token)
    }

    /// Returns the instruction for operands in the order in which they are on the stack.
    fn instruction(self, swapped: bool) -> TokenId {
        match (self, swapped) {
            (Self::Plus, _) => ADD,
            (Self::Minus, false) => SUB,
            (Self::Minus, true) => RSUB,
            (Self::Times, _) => MUL,
        }
    }

    fn apply(self, x: u32, y: u32) -> u32 {
        let value = match self {
            Self::Plus => x + y,
            Self::Minus => x + MODULUS - y,
            Self::Times => x * y,
        };
        value % MODULUS
    }
}

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// A variable by its index.
    Variable(usize),
    /// An operation on two expressions.
    Node(Operation, Box<Tree>, Box<Tree>),
}

impl Tree {
    /// Draws an expression of three or four operations.
    pub fn draw(random: &mut RngStream) -> Self {
        let operations = 3 + random.below(2);
        Self::of(operations, random)
    }

    fn of(operations: usize, random: &mut RngStream) -> Self {
        let Some(rest) = operations.checked_sub(1) else { return Self::Variable(random.below(VARIABLES)) };
        let left = random.below(operations);
        let operation = Operation::ALL.get(random.below(3)).copied().unwrap_or(Operation::Plus);
        Self::Node(operation, Box::new(Self::of(left, random)), Box::new(Self::of(rest - left, random)))
    }

    /// Writes the prompt: BEGIN, the expression, blanks, and EQUALS in the last place.
    ///
    /// ```
    /// use align_repro::dpo_vs_ppo::sequence::{task::{Operation, Tree}, vocabulary::text};
    /// let inner = Tree::Node(Operation::Minus, Tree::Variable(1).into(), Tree::Variable(0).into());
    /// let tree = Tree::Node(Operation::Times, Tree::Variable(2).into(), inner.into());
    /// assert_eq!(text(&tree.prompt()), "B c * ( b - a ) =");
    /// assert_eq!(Tree::read(&tree.prompt()), Some(tree));
    /// ```
    pub fn prompt(&self) -> Vec<TokenId> {
        let mut tokens = vec![BEGIN];
        self.infix(false, &mut tokens);
        tokens.resize(PROMPT_TOKENS.max(tokens.len() + 1) - 1, BLANK);
        tokens.push(EQUALS);
        tokens
    }

    fn infix(&self, inner: bool, tokens: &mut Vec<TokenId>) {
        match self {
            Self::Variable(index) => tokens.push(FIRST_VARIABLE + *index as TokenId),
            Self::Node(operation, left, right) => {
                tokens.extend(inner.then_some(OPEN));
                left.infix(true, tokens);
                tokens.push(operation.token());
                right.infix(true, tokens);
                tokens.extend(inner.then_some(CLOSE));
            }
        }
    }

    /// Reads a prompt; nothing for tokens that are none.
    pub fn read(prompt: &[TokenId]) -> Option<Self> {
        let (&BEGIN, rest) = prompt.split_first()? else { return None };
        let (&EQUALS, rest) = rest.split_last()? else { return None };
        let (tree, rest) = Self::node(rest)?;
        rest.iter().all(|token| *token == BLANK).then_some(tree)
    }

    fn node(tokens: &[TokenId]) -> Option<(Self, &[TokenId])> {
        let (left, rest) = Self::operand(tokens)?;
        let (operation, rest) = rest.split_first()?;
        let (right, rest) = Self::operand(rest)?;
        Some((Self::Node(Operation::read(*operation)?, Box::new(left), Box::new(right)), rest))
    }

    fn operand(tokens: &[TokenId]) -> Option<(Self, &[TokenId])> {
        let (first, rest) = tokens.split_first()?;
        if *first != OPEN {
            return Some((Self::Variable(variable(*first)?), rest));
        }
        let (tree, rest) = Self::node(rest)?;
        let (&CLOSE, rest) = rest.split_first()? else { return None };
        Some((tree, rest))
    }

    /// Writes a program, END included; `swap` decides at every operation whether its second operand comes first.
    pub fn program(&self, swap: &mut dyn FnMut() -> bool) -> Vec<TokenId> {
        let mut tokens = Vec::with_capacity(ANSWER_TOKENS);
        self.emit(swap, &mut tokens);
        tokens.push(END);
        tokens
    }

    fn emit(&self, swap: &mut dyn FnMut() -> bool, tokens: &mut Vec<TokenId>) {
        match self {
            Self::Variable(index) => tokens.push(FIRST_VARIABLE + *index as TokenId),
            Self::Node(operation, left, right) => {
                let swapped = swap();
                let (first, second) = if swapped { (right, left) } else { (left, right) };
                first.emit(swap, tokens);
                second.emit(swap, tokens);
                tokens.push(operation.instruction(swapped));
            }
        }
    }

    /// Writes a demonstration: each operation's operands change places with a probability of 0.3.
    pub fn demonstration(&self, random: &mut RngStream) -> Vec<TokenId> {
        self.program(&mut || random.uniform() < SWAPPED)
    }

    /// Computes the value.
    pub fn value(&self, inputs: &Inputs) -> u32 {
        match self {
            Self::Variable(index) => inputs.get(*index).copied().unwrap_or(0),
            Self::Node(operation, left, right) => operation.apply(left.value(inputs), right.value(inputs)),
        }
    }
}

/// Hidden tests and held-out prompts, the same in all runs.
#[derive(Debug, Clone)]
pub struct Task {
    tests: Vec<Inputs>,
    /// Prompts that settings are chosen on.
    pub validation: Vec<Vec<TokenId>>,
    /// Prompts that are reported, read once per arm.
    pub test: Vec<Vec<TokenId>>,
    held_out: BTreeSet<Vec<TokenId>>,
}

impl Default for Task {
    fn default() -> Self {
        Self::new()
    }
}

impl Task {
    /// Draws the hidden tests and the held-out prompts.
    pub fn new() -> Self {
        let mut random = RngStream::new(TASK_SEED, Purpose::Synthetic, 0, 0);
        let tests =
            (0..TESTS).map(|_| [(); VARIABLES].map(|()| random.below(MODULUS as usize) as u32)).collect();
        let mut random = RngStream::new(TASK_SEED, Purpose::Split, 0, 0);
        let (mut held_out, mut validation) = (BTreeSet::new(), Vec::with_capacity(2 * HELD_OUT));
        while validation.len() < 2 * HELD_OUT {
            let prompt = Tree::draw(&mut random).prompt();
            if held_out.insert(prompt.clone()) {
                validation.push(prompt);
            }
        }
        let test = validation.split_off(HELD_OUT);
        Self { tests, validation, test, held_out }
    }

    /// Draws an expression whose prompt is not held out.
    pub fn draw(&self, random: &mut RngStream) -> Tree {
        loop {
            let tree = Tree::draw(random);
            if !self.held_out.contains(&tree.prompt()) {
                return tree;
            }
        }
    }

    /// Draws prompts that are not held out.
    pub fn prompts(&self, count: usize, random: &mut RngStream) -> Vec<Vec<TokenId>> {
        (0..count).map(|_| self.draw(random).prompt()).collect()
    }

    /// Grades an answer by the hidden tests; an answer to no prompt of the task is wrong.
    pub fn grade(&self, prompt: &[TokenId], answer: &[TokenId]) -> Grade {
        let Some(tree) = Tree::read(prompt) else { return Grade::Wrong };
        let tests: Vec<(Inputs, u32)> =
            self.tests.iter().map(|inputs| (*inputs, tree.value(inputs))).collect();
        grade(answer, &tests)
    }

    /// Writes its reward into every answer.
    pub fn reward(&self, groups: &mut [PromptGroup]) {
        for group in groups {
            for answer in &mut group.completions {
                answer.reward = Some(self.grade(&group.prompt, &answer.token_ids).reward());
            }
        }
    }
}

/// Hands out fresh prompts for on-policy training, none of them held out.
#[derive(Debug, Clone)]
pub struct FreshPrompts {
    task: Task,
    count: usize,
    seed: u64,
}

impl FreshPrompts {
    /// Makes a source of `count` prompts per iteration.
    pub fn new(task: Task, count: usize, seed: u64) -> Self {
        Self { task, count, seed }
    }
}

impl PromptSource for FreshPrompts {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        let prompts = self.task.prompts(self.count, &mut Stream::Fresh.random(self.seed, step));
        Ok(prompts.into_iter().map(|prompt| PromptGroup::new(prompt, Vec::new())).collect())
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        machine::{Halt, SLOTS, run},
        vocabulary::{text, tokens},
    };
    use super::*;

    fn trees(count: usize, seed: u64) -> Vec<Tree> {
        let mut random = RngStream::new(seed, Purpose::Synthetic, 0, 0);
        (0..count).map(|_| Tree::draw(&mut random)).collect()
    }

    fn tree(infix: &str) -> Tree {
        Tree::read(&tokens(&format!("B {infix} ="))).unwrap()
    }

    /// Slots that a program needs which computes `left` first: a leaf one; a node its first operand's, or its second's beside
    /// the value of the first.
    fn need(tree: &Tree) -> usize {
        match tree {
            Tree::Variable(_) => 1,
            Tree::Node(_, left, right) => need(left).max(1 + need(right)),
        }
    }

    fn operations(tree: &Tree) -> usize {
        match tree {
            Tree::Variable(_) => 0,
            Tree::Node(_, left, right) => 1 + operations(left) + operations(right),
        }
    }

    #[test]
    fn prompts_and_programs_are_as_worked_out_by_hand() {
        let tree = tree("( a + b ) - ( c * ( d - e ) )");
        assert_eq!(tree.prompt().len(), PROMPT_TOKENS);
        assert_eq!(text(&tree.prompt()), "B ( a + b ) - ( c * ( d - e ) ) =");
        assert_eq!(text(&tree.program(&mut || false)), "a b ADD c d e SUB MUL SUB END");
        assert_eq!(text(&tree.program(&mut || true)), "e d RSUB c MUL b a ADD RSUB END");
        let mut first = true;
        let only_top = &mut || std::mem::replace(&mut first, false);
        assert_eq!(text(&tree.program(only_top)), "c d e SUB MUL a b ADD RSUB END");
        // (1 + 2) - 3 * (4 - 5) = 6; 96 is -1: (-1 - 1) - (-1) * (0 - 10) = -12.
        assert_eq!(tree.value(&[1, 2, 3, 4, 5]), 6);
        assert_eq!(tree.value(&[96, 96, 96, 0, 10]), 85);
    }

    #[test]
    fn the_longest_prompt_has_one_place_left_for_equals() {
        let longest = tree("( ( ( a + b ) * c ) - d ) + e").prompt();
        assert_eq!((longest.len(), longest.iter().position(|t| *t == BLANK)), (PROMPT_TOKENS, None));
        for tree in trees(500, 1) {
            let prompt = tree.prompt();
            assert_eq!((prompt.len(), prompt.last()), (PROMPT_TOKENS, Some(&EQUALS)));
            assert_eq!(Tree::read(&prompt), Some(tree));
        }
    }

    #[test]
    fn what_is_no_prompt_is_not_read() {
        for words in [
            "",
            "B",
            "B =",
            "B a =",
            "B a + =",
            "B a + b",
            "a + b =",
            "B a + b c =",
            "B ( a + b =",
            "B a ADD b =",
        ] {
            assert_eq!(Tree::read(&tokens(words)), None, "{words}");
        }
        assert_eq!(Task::new().grade(&tokens("B a ="), &tokens("a END")), Grade::Wrong);
    }

    #[test]
    fn half_of_the_trees_have_three_operations_and_operands_are_uniform() {
        let trees = trees(4000, 2);
        let three = trees.iter().filter(|tree| operations(tree) == 3).count();
        assert!(trees.iter().all(|tree| matches!(operations(tree), 3 | 4)));
        // Four standard deviations of 4000 coins are 126.
        assert!(three.abs_diff(2000) < 130, "{three}");
        let mut counts = [0usize; 18];
        trees.iter().flat_map(Tree::prompt).for_each(|token| counts[token as usize] += 1);
        let within = |range: std::ops::Range<usize>| {
            let total: usize = counts[range.clone()].iter().sum();
            let expected = total / range.len();
            counts[range].iter().all(|count| count.abs_diff(expected) < expected / 10)
        };
        assert!(within(5..10) && within(10..13), "{counts:?}");
    }

    /// Every program of a tree that stays within the slots passes, whatever operands change places; none that overflows does.
    #[test]
    fn exactly_the_programs_that_fit_pass() {
        let task = Task::new();
        let mut random = RngStream::new(3, Purpose::Synthetic, 0, 0);
        let mut deep = 0;
        for tree in trees(2000, 4) {
            let program = tree.program(&mut || random.uniform() < 0.5);
            let fits = run(&program[..program.len() - 1], &[0; VARIABLES], SLOTS) != Halt::Overflow;
            let expected = if fits { Grade::Pass } else { Grade::Overflow };
            assert_eq!(task.grade(&tree.prompt(), &program), expected, "{}", text(&tree.prompt()));
            let naive = tree.program(&mut || false);
            let passes = task.grade(&tree.prompt(), &naive) == Grade::Pass;
            assert_eq!(passes, need(&tree) <= SLOTS, "{}", text(&tree.prompt()));
            deep += usize::from(!passes);
        }
        assert!(deep > 0);
    }

    /// The slots D(n) of a random tree of n operations from left to right: D(0) = 1, and with k of n − 1 operations on the
    /// left, each k as likely, max(D(k), 1 + D(n − 1 − k)). So D(1) = 2; D(2) is 2 or 3; P(D(3) > 3) = 1/6, where k = 0 and the
    /// right needs 3; P(D(4) > 3) = (5/6 + 1/2 + 0 + 1/6) / 4 = 3/8. Half of each: 13/48 = 27.1 %. Exchanged operands make the
    /// same distribution, because k is as likely as n − 1 − k.
    #[test]
    fn as_many_programs_overflow_as_the_recursion_says() {
        let (task, count) = (Task::new(), 8000);
        let mut random = RngStream::new(5, Purpose::Synthetic, 0, 0);
        let (mut naive, mut shown) = (0, 0);
        for tree in trees(count, 6) {
            let prompt = tree.prompt();
            naive += usize::from(task.grade(&prompt, &tree.program(&mut || false)) == Grade::Overflow);
            shown += usize::from(task.grade(&prompt, &tree.demonstration(&mut random)) == Grade::Pass);
        }
        let share = |passed: usize| passed as f64 / count as f64;
        // Four standard deviations of 8000 draws are 0.02.
        assert!((share(naive) - 13.0 / 48.0).abs() < 0.02, "{naive}");
        assert!((share(shown) - 35.0 / 48.0).abs() < 0.02, "{shown}");
    }

    #[test]
    fn three_slots_hold_every_tree_if_the_deeper_operand_comes_first() {
        fn deepest_first(tree: &Tree) -> (Vec<TokenId>, usize) {
            let Tree::Node(operation, left, right) = tree else { return (vec![tree.prompt()[1]], 1) };
            let ((left, l), (right, r)) = (deepest_first(left), deepest_first(right));
            let swapped = r > l;
            let (mut first, second) = if swapped { (right, left) } else { (left, right) };
            first.extend(second);
            first.push(operation.instruction(swapped));
            (first, l.max(r).max(1 + l.min(r)))
        }
        let task = Task::new();
        for tree in trees(2000, 7) {
            let (mut program, slots) = deepest_first(&tree);
            program.push(END);
            assert!(slots <= SLOTS);
            assert_eq!(task.grade(&tree.prompt(), &program), Grade::Pass, "{}", text(&tree.prompt()));
        }
    }

    #[test]
    fn held_out_prompts_are_distinct_and_never_drawn() {
        let task = Task::new();
        assert_eq!((task.validation.len(), task.test.len(), task.held_out.len()), (512, 512, 1024));
        assert!(task.validation.iter().all(|prompt| !task.test.contains(prompt)));
        let mut random = Stream::Offline.random(0, 0);
        // Unhindered, some of 20 000 prompts are held out.
        let drawn = task.prompts(20_000, &mut random);
        assert!(drawn.iter().all(|prompt| !task.held_out.contains(prompt)));
        let mut random = Stream::Offline.random(0, 0);
        assert!((0..20_000).any(|_| task.held_out.contains(&Tree::draw(&mut random).prompt())));
        let mut source = FreshPrompts::new(task.clone(), 64, 3);
        let batches: Vec<_> = (0..2).map(|step| source.batch(step).unwrap()).collect();
        assert_ne!(batches[0], batches[1]);
        assert_eq!(source.batch(0).unwrap(), batches[0]);
        assert!(batches.iter().flatten().all(|group| !task.held_out.contains(&group.prompt)));
    }

    #[test]
    fn tasks_are_equal_everywhere_and_streams_are_not() {
        let (one, two) = (Task::new(), Task::new());
        assert_eq!((one.tests.clone(), one.test), (two.tests, two.test));
        assert!(one.tests.iter().flatten().all(|value| *value < MODULUS));
        assert_ne!(Stream::Offline.random(0, 0).bits(), Stream::Fresh.random(0, 0).bits());
    }
}
