// y = act(float(acc) * (row_scale * scale) + bias), each step rounded to fp32.

template <Activation ACTIVATION, bool BIAS>
inline F16 finish(const I16& acc, const F16& row_scale, const F16& scale, const F16& bias) {
  F16 y = mul(to_float(acc), mul(row_scale, scale));
  if constexpr (BIAS) y = add(y, bias);
  return activate<ACTIVATION>(y);
}

template <Activation ACTIVATION, bool BIAS>
void epilogue_rows(const EpilogueFp32& job) {
  const std::int64_t whole = job.columns / kLanes * kLanes;
  const int rest = static_cast<int>(job.columns - whole);
  for (int r = 0; r < job.row_count; ++r) {
    const std::int32_t* acc = job.acc + r * job.acc_stride;
    float* y = job.y + r * job.y_stride;
    const F16 row_scale = set_f(job.row_scale[r]);
    for (std::int64_t c = 0; c < whole; c += kLanes) {
      const F16 bias = BIAS ? load_f(job.bias + c) : set_f(0.0f);
      store_f(y + c,
              finish<ACTIVATION, BIAS>(load_i(acc + c), row_scale, load_f(job.scale + c), bias));
    }
    if (rest == 0) continue;
    const F16 bias = BIAS ? load_f_part(job.bias + whole, rest) : set_f(0.0f);
    store_f_part(y + whole,
                 finish<ACTIVATION, BIAS>(load_i(acc + whole), row_scale,
                                          load_f_part(job.scale + whole, rest), bias),
                 rest);
  }
}

template <Activation ACTIVATION>
void epilogue_activation(const EpilogueFp32& job) {
  job.bias != nullptr ? epilogue_rows<ACTIVATION, true>(job)
                      : epilogue_rows<ACTIVATION, false>(job);
}

void epilogue_fp32(const EpilogueFp32& job) {
  switch (job.activation) {
    case Activation::none:
      return epilogue_activation<Activation::none>(job);
    case Activation::relu:
      return epilogue_activation<Activation::relu>(job);
    case Activation::gelu:
      return epilogue_activation<Activation::gelu>(job);
    case Activation::silu:
      return epilogue_activation<Activation::silu>(job);
  }
}
