-- A pin's embedding is fixed: its first usable row wins, over all days up to its own.
select
    dt,
    pin_id,
    created_at,
    -- A vector that has unit length already keeps its bits.
    case
        when abs(norm - 1) < 1e-6 then embedding
        else list_transform(embedding, lambda x: (x / norm)::float)
    end::float[{{ var('dimensions') }}] as embedding,
    title,
    category,
    image_url,
    width,
    height,
    text_fraction
from {{ ref('checked_pins') }}
where
    reason is null
    and nth = 1
    and pin_id not in (select pin_id from {{ this }} where dt < '{{ var("first_dt") }}')
