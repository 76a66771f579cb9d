use crate::{Error, Result};

/// What generalised advantage estimation reads of one completion of L tokens.
#[derive(Debug, Clone, Copy)]
pub struct GaeInputs<'a> {
    /// The reward of each token, `[L]`.
    pub rewards: &'a [f64],
    /// The value of the state before each token, `[L]`, from the time of the rollout.
    pub values: &'a [f64],
    /// The value of the state after the last token: 0 where the answer is over, the critic's value where it was cut off.
    pub bootstrap: f64,
    /// Discount γ.
    pub gamma: f64,
    /// λ: 0 trusts the critic after one token, 1 the rewards alone.
    pub lam: f64,
}

/// Advantages and returns of one completion, `[L]` each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gae {
    /// A_i.
    pub advantages: Vec<f64>,
    /// A_i + v_i: what the critic learns to predict.
    pub returns: Vec<f64>,
}

/// Computes generalised advantages (1506.02438 eq. 16): δ_i = r_i + γ v_{i+1} − v_i and A_i = δ_i + γ λ A_{i+1}.
///
/// ```
/// use align_ppo::{GaeInputs, gae};
///
/// let out = gae(&GaeInputs { rewards: &[0.0, 1.0], values: &[0.5, 0.75], bootstrap: 0.0, gamma: 1.0, lam: 1.0 })?;
/// assert_eq!((out.advantages, out.returns), (vec![0.5, 0.25], vec![1.0, 1.0]));
/// # Ok::<(), align_ppo::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] when rewards and values differ in number.
pub fn gae(inputs: &GaeInputs<'_>) -> Result<Gae> {
    let (rewards, values) = (inputs.rewards, inputs.values);
    if rewards.len() != values.len() {
        let why = format!("{} rewards and {} values", rewards.len(), values.len());
        return Err(Error::input("generalised advantages", why));
    }
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut next_advantage) = (inputs.bootstrap, 0.0);
    for ((advantage, reward), value) in advantages.iter_mut().zip(rewards).zip(values).rev() {
        let delta = reward + inputs.gamma * next_value - value;
        *advantage = delta + inputs.gamma * inputs.lam * next_advantage;
        (next_value, next_advantage) = (*value, *advantage);
    }
    let returns = advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect();
    Ok(Gae { advantages, returns })
}
