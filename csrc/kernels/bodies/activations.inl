// exp, GELU and SiLU as one fixed sequence of multiplications and additions, so that every
// instruction set gives the same bits. Coefficients: weighted least squares in fp64, rounded to
// fp32.

// e^x for x in [-87, 88] (clamped), within 1 ulp: e^x = 2^n e^r with |r| <= ln(2) / 2. ln(2) is
// split in two so that n * kLn2High is exact (Cody & Waite, 1980).
inline F16 exponential(const F16& x) {
  const F16 clamped = at_most(at_least(x, set_f(-87.0f)), set_f(88.0f));
  const I16 n = round_i(mul(clamped, set_f(1.44269504088896f)));
  const F16 whole = to_float(n);
  const F16 r =
      sub(sub(clamped, mul(whole, set_f(0.693359375f))), mul(whole, set_f(-2.12194440e-4f)));
  F16 q = set_f(0.0013814513804391026f);
  q = add(mul(q, r), set_f(0.008368756622076035f));
  q = add(mul(q, r), set_f(0.04166839271783829f));
  q = add(mul(q, r), set_f(0.1666651964187622f));
  q = add(mul(q, r), set_f(0.4999999403953552f));
  const F16 e = add(add(mul(mul(r, r), q), r), set_f(1.0f));
  return mul(e, power_of_two(n));
}

// x / (1 + e^-x). e^-x stops growing at e^88, so x stops at -100: the result is 0 but for 1e-36.
inline F16 silu(const F16& x) {
  const F16 growth = exponential(sub(set_f(0.0f), x));
  return div(at_least(x, set_f(-100.0f)), add(set_f(1.0f), growth));
}

// x Phi(x), from the tail T(|x|) = erfc(|x| / sqrt 2) / 2 = e^(-x^2 / 2) t P(t) with
// t = 1 / (1 + 0.2475 |x|), so that nothing cancels for negative x. Relative error of P: 7e-9.
inline F16 gelu(const F16& x) {
  constexpr float kTail[] = {0.019230810925364494f,  -0.07963372021913528f, 0.09114298969507217f,
                             -0.014423467218875885f, 0.04400373995304108f,  0.07274354249238968f,
                             0.07569390535354614f,   0.09392838925123215f,  0.09857209026813507f,
                             0.09874172508716583f};
  const F16 near = at_most(at_least(x, set_f(-40.0f)), set_f(40.0f));  // T underflows before
  const F16 magnitude = where_negative(near, sub(set_f(0.0f), near), near);
  const F16 t = div(set_f(1.0f), add(set_f(1.0f), mul(set_f(0.2474873661994934f), magnitude)));
  F16 polynomial = set_f(kTail[0]);
#pragma GCC unroll 9
  for (int i = 1; i < 10; ++i) polynomial = add(mul(polynomial, t), set_f(kTail[i]));
  const F16 decay = exponential(mul(set_f(-0.5f), mul(near, near)));
  const F16 product = mul(near, mul(decay, mul(t, polynomial)));
  return where_negative(x, product, sub(x, product));
}

inline F16 relu6(const F16& x) { return at_most(at_least(x, set_f(0.0f)), set_f(6.0f)); }

// x relu6(x + 3) / 6, in torch's order of operations.
inline F16 hardswish(const F16& x) { return div(mul(x, relu6(add(x, set_f(3.0f)))), set_f(6.0f)); }

template <Activation ACTIVATION>
inline F16 activate(const F16& y) {
  if constexpr (ACTIVATION == Activation::relu) return at_least(y, set_f(0.0f));
  if constexpr (ACTIVATION == Activation::relu6) return relu6(y);
  if constexpr (ACTIVATION == Activation::hardswish) return hardswish(y);
  if constexpr (ACTIVATION == Activation::gelu) return gelu(y);
  if constexpr (ACTIVATION == Activation::silu) return silu(y);
  return y;
}
