select
    r.dt,
    r.medoid_pin_id,
    any_value(p.title) as title,
    count(distinct r.user_id) as users,
    count(distinct r.pin_id) as recommended_pins
from {{ source('retrieval', 'recommendations') }} as r
left join {{ ref('pins') }} as p on r.medoid_pin_id = p.pin_id
where r.dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
group by r.dt, r.medoid_pin_id
