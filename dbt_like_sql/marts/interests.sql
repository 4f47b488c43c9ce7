select
    m.dt,
    m.user_id,
    row_number() over (partition by m.dt, m.user_id order by m.importance desc, m.medoid_pin_id) as interest,
    m.medoid_pin_id,
    p.title,
    p.category,
    m.importance,
    m.importance / sum(m.importance) over (partition by m.dt, m.user_id) as share,
    m.size as actions
from {{ source('users', 'medoids') }} as m
left join {{ ref('pins') }} as p on m.medoid_pin_id = p.pin_id
where m.dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
